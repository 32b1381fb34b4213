# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Draws slices.png: a photograph with its slice grid, and beside it the overview. Needs scikit-image.

    python docs/images/make_slices_picture.py

The photograph is the Hubble Deep Field (NASA, public domain), as scikit-image ships it.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from skimage import data

from llava_uhd_v2_hf.geometry_llava_uhd_v2 import plan_slices


SCALE = 0.62
MARGIN = 18
LINE_COLOUR = "#ffd54a"
PATCH_SIZE = 14


def draw_slices(photo: Image.Image, rows: int, columns: int) -> Image.Image:
    """The photograph, enlarged as it is cut, with the borders of the slices."""
    drawn = ImageDraw.Draw(photo)
    for column in range(1, columns):
        x = photo.width * column // columns
        drawn.line([(x, 0), (x, photo.height)], fill=LINE_COLOUR, width=3)
    for row in range(1, rows):
        y = photo.height * row // rows
        drawn.line([(0, y), (photo.width, y)], fill=LINE_COLOUR, width=3)
    return photo


def shrink(image: Image.Image) -> Image.Image:
    return image.resize((round(image.width * SCALE), round(image.height * SCALE)), Image.Resampling.LANCZOS)


def main() -> None:
    photo = Image.fromarray(data.hubble_deep_field())
    plan = plan_slices(photo.height, photo.width, max_slices=9, slice_resolution=336, patch_size=PATCH_SIZE)
    rows, columns = plan.grid
    cut = shrink(draw_slices(photo.resize(plan.refined_size[::-1], Image.Resampling.BICUBIC), rows, columns))
    overview = shrink(photo.resize(plan.overview_size[::-1], Image.Resampling.BICUBIC))

    font = ImageFont.load_default(size=16)
    canvas = Image.new("RGB", (cut.width + overview.width + 3 * MARGIN, cut.height + 3 * MARGIN + 16), "white")
    drawn = ImageDraw.Draw(canvas)
    for picture, left, view, (height, width) in (
        (cut, MARGIN, f"{plan.num_slices} slices of", plan.slice_size),
        (overview, cut.width + 2 * MARGIN, "overview of", plan.overview_size),
    ):
        canvas.paste(picture, (left, MARGIN))
        patches = f"{height // PATCH_SIZE} x {width // PATCH_SIZE} patches"
        drawn.text((left, MARGIN + picture.height + 8), f"{view} {patches}", fill="black", font=font)
    # 128 colours keep the file small
    canvas.quantize(128).save(Path(__file__).with_name("slices.png"), optimize=True)


if __name__ == "__main__":
    main()
