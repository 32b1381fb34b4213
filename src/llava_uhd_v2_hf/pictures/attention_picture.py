# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Draws where a model looked while it answered: heat maps over the slices and over the overview, and the answer.

Lengths are in pixels of the picture; an area to fill is (height, width).
"""

import math
from collections.abc import Collection

import numpy as np
from PIL import Image, ImageDraw
from transformers import AutoProcessor

from ..inference.chat import Chat
from ..inference.inspection import Inspection, count_of, inspect_image
from ..inference.loading import load_image_settings, load_network, read_image
from ..model.geometry_llava_uhd_v2 import SlicePlan
from ..model.image_loading_llava_uhd_v2 import Alpha
from .attention import AnswerAttention, AttentionMaps, attend, find_regions, place_weights
from .canvas import (
    BACKGROUND,
    INK,
    MARGIN,
    MUTED,
    PANEL_GAP,
    SMALL_FONT,
    TALLEST,
    TEXT_FONT,
    WIDTH,
    arrange,
    draw_panel,
    shrink,
)


CHOSEN = "#ffd76a"  # behind the words that the picture is about
LINE = 24
BAR = (14, 300)
# of the heat, from the least to the most
STOPS = np.array([[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64], [240, 249, 33]], dtype=np.float64)


def draw_attention(
    inspection: Inspection, attention: AnswerAttention, tokens: Collection[int], question: str
) -> Image.Image:
    """Question, answer and the attention of a part of it, slices and overview on one scale; `WIDTH` wide.

    Args:
        inspection: of the image.
        attention: of the answer.
        tokens: those of the answer that it is about, counted from 0; of several, the mean.
        question: what was asked.

    Raises:
        ValueError: if the image has another number of tokens than there are weights.
    """
    weights = attention.weights[sorted(tokens)].mean(dim=0)
    maps = place_weights(weights, inspection)
    top = max(float(part.max()) for part in maps if part.size)
    plan, wide = inspection.plan, inspection.image_size[1] > 1.8 * inspection.image_size[0]
    room = WIDTH - 2 * MARGIN
    panel_width = room if wide or not plan.num_slices else (room - PANEL_GAP) // 2
    size = scale_to_fit(inspection.image_size, (TALLEST, panel_width))
    overview = draw_heat(inspection.views[-1], maps.overview, top, size)
    panels = [draw_panel(overview, "Overview", f"{maps.overview.sum():.1%} of the attention")]
    if plan.num_slices:
        slices = draw_attended(inspection, maps, top, size)
        title = count_of(plan.num_slices, "slice")
        panels.insert(0, draw_panel(slices, title, f"{maps.slices.sum():.1%} of the attention"))

    text = draw_text(question, attention.pieces, tokens)
    body = arrange(panels, across=not wide)
    of_image = weights.sum().item()
    parts = [
        text,
        body,
        _draw_scale(top, max(of_image - float(maps.slices.sum() + maps.overview.sum()), 0), 1 - of_image),
    ]
    heights = [part.height + MARGIN for part in parts]
    picture = Image.new("RGB", (max(WIDTH, body.width + 2 * MARGIN), MARGIN + sum(heights)), BACKGROUND)
    place = MARGIN
    for part, height in zip(parts, heights, strict=True):
        picture.paste(part, (MARGIN, place))
        place += height
    return picture


def draw_attended(inspection: Inspection, maps: AttentionMaps, top: float, size: tuple[int, int]) -> Image.Image:
    """The image, put together from its slices, under the attention to them; one without slices as its overview.

    Args:
        inspection: of the image.
        maps: of [`place_weights`].
        top: the weight that becomes the brightest.
        size: (height, width) of the result.
    """
    plan = inspection.plan
    if not plan.num_slices:
        return draw_heat(inspection.views[0], maps.overview, top, size)
    picture = draw_heat(join_views(inspection.views[:-1], plan), join_maps(maps.slices, plan), top, size)
    draw_seams(picture, plan.grid)
    return picture


def join_views(views: list[Image.Image], plan: SlicePlan) -> Image.Image:
    """The slices as the one image that they were cut from."""
    height, width = plan.slice_size
    joined = Image.new("RGB", (plan.grid[1] * width, plan.grid[0] * height))
    for index, view in enumerate(views):
        row, column = divmod(index, plan.grid[1])
        joined.paste(view, (column * width, row * height))
    return joined


def join_maps(maps: np.ndarray, plan: SlicePlan) -> np.ndarray:
    """The maps of the slices, (v, r, c) row by row, as one."""
    rows, columns = maps.shape[1:]
    grid = maps.reshape(*plan.grid, rows, columns).swapaxes(1, 2)
    return grid.reshape(plan.grid[0] * rows, plan.grid[1] * columns)


def draw_heat(view: Image.Image, heat: np.ndarray, top: float, size: tuple[int, int]) -> Image.Image:
    """A dimmed picture of the given size with a map over it, each number over its own window.

    Args:
        view: RGB.
        heat: (r, c), not negative; the windows are all of one size.
        top: the weight that becomes the brightest.
        size: (height, width) of the result.
    """
    picture = view.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    rows, columns = ((np.arange(side) * count) // side for side, count in zip(size, heat.shape, strict=True))
    strength = (heat / max(top, 1e-12))[rows][:, columns]
    grey = np.asarray(picture.convert("L"), dtype=np.float64)[..., None]
    dimmed = 0.6 * (0.5 * np.asarray(picture, dtype=np.float64) + 0.5 * grey)
    opacity = 0.8 * strength[..., None]
    return Image.fromarray((dimmed * (1 - opacity) + _ramp(strength) * opacity).round().astype(np.uint8))


def _ramp(strength: np.ndarray) -> np.ndarray:
    """[0, 1] -> RGB from 0 to 255, in a new last axis."""
    places = np.linspace(0, 1, len(STOPS))
    return np.stack([np.interp(strength, places, channel) for channel in STOPS.T], axis=-1)


def draw_seams(picture: Image.Image, grid: tuple[int, int]) -> None:
    """Lines between the slices of a (rows, columns) grid."""
    drawn, (rows, columns) = ImageDraw.Draw(picture), grid
    for row in range(1, rows):
        drawn.line((0, picture.height * row // rows, picture.width, picture.height * row // rows), fill="white")
    for column in range(1, columns):
        drawn.line(
            (picture.width * column // columns, 0, picture.width * column // columns, picture.height), fill="white"
        )


def scale_to_fit(size: tuple[int, int], area: tuple[int, int]) -> tuple[int, int]:
    """A (height, width) as large as the area allows, enlarged or shrunk."""
    scale = min(area[0] / size[0], area[1] / size[1])
    return shrink((math.ceil(size[0] * scale), math.ceil(size[1] * scale)), area)


def draw_text(question: str, pieces: list[str], tokens: Collection[int]) -> Image.Image:
    """Question and answer in lines, the tokens that were chosen marked."""
    words = [(piece, False) for piece in f"Question: {question}\n".replace(" ", " \0").split("\0")]
    words += [("Answer: ", False), *((piece, index in tokens) for index, piece in enumerate(pieces))]
    placed, left, line, room = [], 0.0, 0, WIDTH - 2 * MARGIN
    for text, chosen in words:
        for number, part in enumerate(text.split("\n")):
            length = TEXT_FONT.getlength(part)
            if number or (left and left + length > room):
                left, line = 0.0, line + 1
            placed.append((left, line, part, chosen))
            left += length
    picture = Image.new("RGB", (room, LINE * (line + 1)), BACKGROUND)
    drawn = ImageDraw.Draw(picture)
    for left, line, part, chosen in placed:
        if chosen:
            right = left + TEXT_FONT.getlength(part)
            drawn.rounded_rectangle((left, LINE * line, right, LINE * line + LINE - 4), radius=4, fill=CHOSEN)
    for left, line, part, _ in placed:
        drawn.text((left, LINE * line + 1), part, fill=INK, font=TEXT_FONT)
    return picture


def _draw_scale(top: float, separators: float, rest: float) -> Image.Image:
    """What the colours mean, and where the rest of the attention is."""
    height, width = BAR
    picture = Image.new("RGB", (WIDTH - 2 * MARGIN, height + 44), BACKGROUND)
    ramp = _ramp(np.tile(np.linspace(0, 1, width), (height, 1)))
    picture.paste(Image.fromarray(ramp.round().astype(np.uint8)), (0, 0))
    drawn = ImageDraw.Draw(picture)
    drawn.text((0, height + 4), "0", fill=MUTED, font=SMALL_FONT)
    drawn.text((width, height + 4), f"{top:.2%} a token", fill=MUTED, font=SMALL_FONT, anchor="ra")
    words = f"mean over layers and heads; {separators:.1%} at the separators, {rest:.1%} at the text"
    drawn.text((0, height + 24), words, fill=MUTED, font=TEXT_FONT)
    return picture


def explain_answer(
    image: str,
    model: str,
    question: str,
    token: str | None,
    max_new_tokens: int,
    max_slices: int | None,
    alpha: Alpha | None = None,
) -> tuple[Image.Image, str]:
    """Asks a model about an image, and draws where it looked; the answer too.

    Args:
        image: file or http(s) URL.
        model: folder or Hub id of a checkpoint or an adapter.
        question: the user's message.
        token: see [`AnswerAttention.find_tokens`].
        max_new_tokens: longest answer, in tokens.
        max_slices: largest number of slices; None is the model's own.
        alpha: what becomes of transparency; None is the model's own.

    Raises:
        OSError: if image or model are not there.
        ValueError: if one of them can't be used, or the answer has no such token.
    """
    image_processor, config = load_image_settings(model)
    image_processor.alpha = alpha or image_processor.alpha
    picture = read_image(image, image_processor)
    inspection = inspect_image(picture, image_processor, config, max_slices)
    find_regions(inspection)  # before a long answer
    chat = Chat(load_network(model), AutoProcessor.from_pretrained(model), [picture], max_slices)
    answer = chat.ask(question, max_new_tokens=max_new_tokens)
    attention = attend(chat)
    return draw_attention(inspection, attention, attention.find_tokens(token), question), answer


__all__ = ["draw_attended", "draw_attention", "explain_answer"]
