# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Draws the pictures of docs/processing.md, as `llava-uhd-v2 inspect` does. Needs scikit-image.

    python docs/images/make_pictures.py [FOLDER]

The photographs come with scikit-image, cut or enlarged to the shapes; the page is this project's licence. They
are written to FOLDER too, if it is given.
"""

import sys
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw, ImageFont
from skimage import data

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ImageProcessor
from llava_uhd_v2_hf.inference.inspection import inspect_image
from llava_uhd_v2_hf.pictures.canvas import (
    BACKGROUND,
    INK,
    MUTED,
    save_picture,
)
from llava_uhd_v2_hf.pictures.slices import (
    SWATCHES,
    draw_inspection,
)


HERE = Path(__file__).parent


def make_page() -> Image.Image:
    """The beginning of the licence on a sheet of A4, at 125 dots per inch."""
    page = Image.new("RGB", (1033, 1461), "white")
    drawn = ImageDraw.Draw(page)
    for row, line in enumerate((HERE.parents[1] / "LICENSE").read_text().splitlines()[:58]):
        indent = 10 * (len(line) - len(line.lstrip()))
        drawn.text((100 + indent, 60 + 23 * row), line.strip(), fill="black", font=ImageFont.load_default(size=19))
    return page


def make_images() -> dict[str, Image.Image]:
    """One image of each shape, by the name of its picture."""
    cat, coffee, rocket, motorcycle = (
        Image.fromarray(array) for array in (data.chelsea(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0])
    )
    return {
        "small": cat.crop((100, 20, 360, 280)),
        "slices": coffee.resize((1200, 800), Image.Resampling.LANCZOS),
        "tall": rocket.crop((230, 0, 372, 427)).resize((400, 1200), Image.Resampling.LANCZOS),
        "panorama": motorcycle.crop((0, 150, 741, 335)).resize((1600, 400), Image.Resampling.LANCZOS),
        "page": make_page(),
    }


def reduce_colours(picture: Image.Image) -> Image.Image:
    """To 256 colours, which keep the file small, those of the legend among them."""
    colours = [ImageColor.getrgb(colour) for colour in (BACKGROUND, INK, MUTED, *SWATCHES.values())]
    chosen = picture.quantize(256 - len(colours)).getpalette()
    palette = Image.new("P", (1, 1))
    palette.putpalette([*chosen, *(channel for colour in colours for channel in colour)])
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def main() -> None:
    image_processor = LlavaUhdV2ImageProcessor()
    for name, image in make_images().items():
        if len(sys.argv) > 1:
            folder = Path(sys.argv[1])
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{name}.jpg")
        config = LlavaUhdV2Config(token_layout="sequential" if name == "panorama" else "spatial")
        picture = draw_inspection(inspect_image(image, image_processor, config))
        save_picture(reduce_colours(picture), HERE / f"{name}.png")


if __name__ == "__main__":
    main()
