# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Draws an inspection: the slices, slightly apart, the overview, and a map of the tokens in reading order.

Lengths are in pixels of the picture; an area to fill is (height, width).
"""

import math

from PIL import Image, ImageDraw

from ..inference.inspection import Inspection, Regions, count_of
from ..model.geometry_llava_uhd_v2 import ROW_SEPARATOR, SLICE_SEPARATOR
from .canvas import (
    BACKGROUND,
    HEADING,
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


SLICE_GAP = 7
LARGEST_CELL = 12  # side of a token in the map
NUMBER_LINE = 17  # above a row of slices, for their numbers
LEGEND_LINE = 25

OVERVIEW_COLOUR = "#0a7e8c"
SEPARATOR_COLOURS = {ROW_SEPARATOR: "#d6006c", SLICE_SEPARATOR: "#2f5bff"}
SWATCHES = {
    "slice token": "#a8b0b8",
    "row separator": SEPARATOR_COLOURS[ROW_SEPARATOR],
    "slice separator": SEPARATOR_COLOURS[SLICE_SEPARATOR],
    "overview token": OVERVIEW_COLOUR,
}


def draw_inspection(inspection: Inspection) -> Image.Image:
    """The three panels on one RGB picture, `WIDTH` wide (more only where a caption needs it).

    The slices of a wide image stand above the overview and the map of the tokens, those of a tall one beside them.
    """
    plan, room = inspection.plan, WIDTH - 2 * MARGIN
    height, width = plan.refined_size if plan.num_slices else plan.overview_size
    if width > 1.8 * height:
        half = (room - PANEL_GAP) // 2
        slices = draw_slices(inspection, (TALLEST, room))
        # a map of very many columns takes a line of its own
        fits = 4 * map_size(place_tokens(inspection))[1] < half
        rest = [draw_overview(inspection, (TALLEST, half)), draw_tokens(inspection, (TALLEST, half if fits else room))]
        panels = arrange([*slices, arrange(rest, across=fits)], across=False)
    elif width > 0.85 * height:
        slices = draw_slices(inspection, (TALLEST, room * 3 // 5))
        rest_width = room - sum(panel.width + PANEL_GAP for panel in slices)
        overview = draw_overview(inspection, (190 if slices else 336, rest_width))
        left = sum(panel.height for panel in slices) - overview.height - PANEL_GAP - HEADING
        rest = [overview, draw_tokens(inspection, (max(left, 250), rest_width))]
        panels = arrange([*slices, arrange(rest, across=not slices)], across=True)
    else:
        slices = draw_slices(inspection, (TALLEST, room * 2 // 5))
        overview = draw_overview(inspection, (TALLEST, room // 4))
        rest_width = room - sum(panel.width + PANEL_GAP for panel in [*slices, overview])
        panels = arrange([*slices, overview, draw_tokens(inspection, (TALLEST, rest_width))], across=True)

    top = MARGIN + 34
    size = (max(WIDTH, panels.width + 2 * MARGIN), top + panels.height + MARGIN)
    picture = Image.new("RGB", size, BACKGROUND)
    headline = "Image of {} x {} pixels (height x width)".format(*inspection.image_size)
    ImageDraw.Draw(picture).text((MARGIN, MARGIN - 8), headline, fill=MUTED, font=TEXT_FONT)
    picture.paste(panels, (MARGIN, top))
    return picture


def draw_slices(inspection: Inspection, area: tuple[int, int]) -> list[Image.Image]:
    """Draws the panel with the slices in their grid, their numbers above them; none for an image without slices.

    Slices too small for a number have none.
    """
    plan = inspection.plan
    if not plan.num_slices:
        return []
    rows, columns = plan.grid
    gap = min(SLICE_GAP, area[0] // (2 * rows), area[1] // (2 * columns))
    numbered = min(area[0] // rows, area[1] // columns) > 2 * NUMBER_LINE
    top = NUMBER_LINE if numbered else 0
    room = (area[0] - gap * (rows - 1)) // rows - top, (area[1] - gap * (columns - 1)) // columns
    height, width = shrink(plan.slice_size, room)
    pitch = top + height + gap
    body = Image.new("RGB", (columns * (width + gap) - gap, rows * pitch - gap), BACKGROUND)
    drawn = ImageDraw.Draw(body)
    for index, view in enumerate(inspection.views[:-1]):
        row, column = divmod(index, columns)
        place = (column * (width + gap), row * pitch + top)
        body.paste(view.resize((width, height), Image.Resampling.LANCZOS), place)
        if numbered:
            drawn.text((place[0], place[1] - 4), str(index + 1), fill=MUTED, font=SMALL_FONT, anchor="ls")
    title = f"{plan.num_slices} slices: {count_of(rows, 'row')}, {count_of(columns, 'column')}"
    return [draw_panel(body, title, f"each {inspection.describe_size(plan.slice_size)}")]


def draw_overview(inspection: Inspection, area: tuple[int, int]) -> Image.Image:
    size = inspection.plan.overview_size
    height, width = shrink(size, area)
    body = inspection.views[-1].resize((width, height), Image.Resampling.LANCZOS)
    ImageDraw.Draw(body).rectangle((0, 0, width - 1, height - 1), outline=OVERVIEW_COLOUR, width=2)
    title = "Overview" if inspection.plan.num_slices else "Overview alone, no slices"
    return draw_panel(body, title, inspection.describe_size(size))


def place_tokens(inspection: Inspection) -> list[tuple[int, int]]:
    """(line, column) in the map of every token and separator, in reading order.

    Slices, separators that stand alone, and the overview are one line or column apart.
    """
    (rows, columns), (token_rows, token_columns) = inspection.plan.grid, inspection.token_grid
    first_of_overview = rows * columns * token_rows * token_columns
    places = []
    line, column, last = 0, 0, -1
    for entry in inspection.order:
        view, token = divmod(entry if entry >= 0 else last, token_rows * token_columns)
        if entry >= first_of_overview:
            top = rows * (token_rows + 1) + (2 if inspection.layout == "spatial" and rows else 0)
            line_of_overview, column_of_overview = divmod(entry - first_of_overview, inspection.overview_token_grid[1])
            place = (top + line_of_overview, column_of_overview)
        elif entry >= 0:
            row, column_of_slices = divmod(view, columns)
            # in the sequential layout there is a separator between two slices
            pitch = token_columns + (1 if inspection.layout == "spatial" else 3)
            place = (row * (token_rows + 1) + token // token_columns, column_of_slices * pitch + token % token_columns)
        elif last >= 0:
            place = (line, column + 2)
        else:
            place = (rows * (token_rows + 1), 0)
        places.append(place)
        (line, column), last = place, entry
    return places


def map_size(places: list[tuple[int, int]]) -> tuple[int, int]:
    """(lines, columns) of the map."""
    return max(line for line, _ in places) + 1, max(column for _, column in places) + 1


def draw_tokens(inspection: Inspection, area: tuple[int, int]) -> Image.Image:
    """The panel with the map and its legend.

    The map has a cell for each token, in the mean colour of its part of the view, and cells for the separators. The
    legend stands beside the overview's part if there is room, else below.
    """
    picture, corner = draw_map(inspection, area)
    legend = draw_legend(inspection)
    left, top = corner[0] + 24, corner[1]
    if left + legend.width > area[1]:
        left, top = 0, picture.height + 12
    body = Image.new(
        "RGB", (max(picture.width, left + legend.width), max(picture.height, top + legend.height)), BACKGROUND
    )
    body.paste(picture, (0, 0))
    body.paste(legend, (left, top))

    caption = "read line by line"
    if inspection.plan.num_slices:
        per_line = inspection.plan.grid[1] * inspection.token_grid[1] + 1
        spatial = f"read in lines of {per_line} across the slices"
        caption = spatial if inspection.layout == "spatial" else "read slice by slice"
    return draw_panel(body, f"{len(inspection.order):,} tokens", caption)


def mean_colours(view: Image.Image, regions: Regions | None, count: int) -> list:
    """Returns the mean colour of the part of a view that each of `count` tokens sees; see [`Inspection`]."""
    if regions is None:
        return [view.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))] * count
    width, height = view.size
    boxes = [(left * width, top * height, right * width, bottom * height) for top, left, bottom, right in regions]
    return [view.resize((1, 1), Image.Resampling.BOX, box=box).getpixel((0, 0)) for box in boxes]


def draw_map(inspection: Inspection, area: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """The map, and the upper right corner (x, y) of the overview's part in it."""
    token_rows, token_columns = inspection.overview_token_grid
    colours: list = []
    for view in inspection.views[:-1]:
        colours += mean_colours(view, inspection.regions, math.prod(inspection.token_grid))
    colours += mean_colours(inspection.views[-1], inspection.overview_regions, token_rows * token_columns)

    places = place_tokens(inspection)
    lines, columns = map_size(places)
    gutter = 10 + math.ceil(SMALL_FONT.getlength(f"{len(places):,}"))
    cell = max(min(area[0] // lines, (area[1] - gutter) // columns, LARGEST_CELL), 1)
    grout = 1 if cell >= 3 else 0
    inset = 5  # room for half a number
    picture = Image.new("RGB", (gutter + cell * columns + 2, cell * lines + 2 * inset), BACKGROUND)
    drawn = ImageDraw.Draw(picture)
    number_below = 0
    for index, (entry, (line, column)) in enumerate(zip(inspection.order, places, strict=True)):
        left, top = gutter + cell * column, inset + cell * line
        colour = SEPARATOR_COLOURS[entry] if entry < 0 else colours[entry]
        drawn.rectangle((left, top, left + cell - 1 - grout, top + cell - 1 - grout), fill=colour)
        starts_part = column == 0 and (index == 0 or line > places[index - 1][0] + 1)
        if starts_part and top >= number_below:
            number_below = top + 13
            drawn.text((gutter - 7, top + cell / 2), f"{index + 1:,}", fill=MUTED, font=SMALL_FONT, anchor="rm")

    # the overview's part is framed like the overview
    top = inset + cell * (lines - token_rows)
    right, bottom = gutter + cell * token_columns - grout, inset + cell * lines - grout
    drawn.rectangle((gutter - 2, top - 2, right + 1, bottom + 1), outline=OVERVIEW_COLOUR, width=2 if grout else 1)
    if picture.width > area[1]:
        shrunk = picture.resize((area[1], picture.height * area[1] // picture.width), Image.Resampling.BOX)
        return shrunk, (0, shrunk.height)
    return picture, (right, top)


def draw_legend(inspection: Inspection) -> Image.Image:
    """What the colours of the map mean, and how many tokens there are of each kind."""
    indent = 21
    texts = [(SWATCHES[kind], count_of(count, kind)) for kind, count in inspection.count_tokens().items()]
    width = indent + math.ceil(max(TEXT_FONT.getlength(text) for _, text in texts))
    legend = Image.new("RGB", (width, LEGEND_LINE * len(texts)), BACKGROUND)
    drawn = ImageDraw.Draw(legend)
    for index, (colour, text) in enumerate(texts):
        top = LEGEND_LINE * index
        drawn.rounded_rectangle((0, top + 2, 13, top + 15), radius=3, fill=colour)
        drawn.text((indent, top), text, fill=INK, font=TEXT_FONT)
    return legend


__all__ = ["draw_inspection"]
