# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Writes pages as files, for the pre-training of visual detail injection, which needs no questions.

python examples/nano/write_pages.py FOLDER [COUNT]
"""

import random
import sys
from pathlib import Path

from pages import draw_page, draw_shape


def write_pages(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        source = random.Random(number)
        kinds, height, width = draw_shape("ask", source)
        draw_page(kinds, height, width, "train", source).image.save(folder / f"{number:05d}.png")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
