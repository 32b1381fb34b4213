# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What the pictures share: sizes, colours, fonts, panels, and writing a picture to a file.

Lengths are in pixels of the picture; an area to fill is (height, width).
"""

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..utils.atomic import atomic_write


WRITABLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pdf")
WIDTH = 960  # about what a README shows
MARGIN = 30
PANEL_GAP = 34
TALLEST = 560  # body of a panel
THINNEST_VIEW = 14  # a thinner one is drawn thicker
HEADING = 58  # above the body of a panel
BACKGROUND = "#f3f3f1"
INK = "#1f2328"
MUTED = "#5c646d"
TITLE_FONT = ImageFont.load_default(size=21)
TEXT_FONT = ImageFont.load_default(size=15)
SMALL_FONT = ImageFont.load_default(size=12)


def check_suffix(path: Path) -> None:
    """
    Raises:
        ValueError: if pictures are not written under such a name, with the suffixes that do.
    """
    if path.suffix.lower() not in WRITABLE_SUFFIXES:
        raise ValueError(f"A picture can't be written as {path}; end its name in {', '.join(WRITABLE_SUFFIXES)}.")


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes under a temporary name first, so that the file is whole or not there.

    Raises:
        ValueError: see [`check_suffix`].
        OSError: if its folder is missing or can't be written to.
    """
    check_suffix(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} to.")
    with atomic_write(path) as unfinished:
        picture.save(unfinished)


def arrange(panels: list[Image.Image], *, across: bool) -> Image.Image:
    """Panels one beside the other, or one below the other."""
    gaps = PANEL_GAP * (len(panels) - 1)
    widths, heights = [panel.width for panel in panels], [panel.height for panel in panels]
    size = (sum(widths) + gaps, max(heights)) if across else (max(widths), sum(heights) + gaps)
    arranged, place = Image.new("RGB", size, BACKGROUND), 0
    for panel in panels:
        arranged.paste(panel, (place, 0) if across else (0, place))
        place += (panel.width if across else panel.height) + PANEL_GAP
    return arranged


def draw_panel(body: Image.Image, title: str, caption: str) -> Image.Image:
    """A heading and under it the body."""
    width = max(body.width, math.ceil(TITLE_FONT.getlength(title)), math.ceil(TEXT_FONT.getlength(caption)))
    panel = Image.new("RGB", (width, HEADING + body.height), BACKGROUND)
    drawn = ImageDraw.Draw(panel)
    drawn.text((0, 0), title, fill=INK, font=TITLE_FONT)
    drawn.text((0, 29), caption, fill=MUTED, font=TEXT_FONT)
    panel.paste(body, (0, HEADING))
    return panel


def shrink(size: tuple[int, int], area: tuple[int, int]) -> tuple[int, int]:
    """A (height, width) shrunk to fit into an area, each side at least `THINNEST_VIEW` where the area is."""
    scale = min(area[0] / size[0], area[1] / size[1], 1)
    thinnest = [max(min(side, THINNEST_VIEW), 1) for side in area]
    return max(int(size[0] * scale), thinnest[0]), max(int(size[1] * scale), thinnest[1])


__all__ = ["check_suffix", "save_picture"]
