# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Fonts of the rendered documents, from packages of PyPI (`pip install '.[nano]'`); other families in every split."""

import importlib.util
import random
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont


# split -> family -> package, folder in it, and the file names of the regular and the bold face
FAMILIES = {
    "train": {
        "DejaVu Sans": ("matplotlib", "mpl-data/fonts/ttf", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
        "DejaVu Sans Mono": ("matplotlib", "mpl-data/fonts/ttf", "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
        "DejaVu Serif": ("matplotlib", "mpl-data/fonts/ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
        "Hanken Grotesk": ("font_hanken_grotesk", "files", "HankenGrotesk-Regular.otf", "HankenGrotesk-Bold.otf"),
        "Roboto": ("font_roboto", "files", "Roboto-Regular.ttf", "Roboto-Bold.ttf"),
        "Source Sans Pro": ("font_source_sans_pro", "files", "SourceSansPro-Regular.ttf", "SourceSansPro-Bold.ttf"),
        "Source Serif Pro": (
            "font_source_serif_pro",
            "files",
            "SourceSerifPro-Regular.ttf",
            "SourceSerifPro-Bold.ttf",
        ),
    },
    "validation": {"Manrope": ("font_manrope", "files", "Manrope-Regular.ttf", "Manrope-Bold.ttf")},
    "test": {
        "Caladea": ("font_caladea", "files", "Caladea-Regular.ttf", "Caladea-Bold.ttf"),
        "Lato": ("font_lato", "files", "Lato-Regular.ttf", "Lato-Bold.ttf"),
    },
}


def font_files(split: str, family: str) -> tuple[str, str]:
    """The files of a family's regular and bold face.

    Raises:
        ModuleNotFoundError: naming the package, if it is not installed.
    """
    package, folder, *faces = FAMILIES[split][family]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed; run: pip install '.[nano]'", name=package)
    regular, bold = (str(Path(spec.origin).parent / folder / face) for face in faces)
    return regular, bold


@lru_cache(maxsize=4096)
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def draw_family(split: str, source: random.Random) -> tuple[str, str]:
    """The regular and the bold face of a family of the split, drawn at random."""
    return font_files(split, source.choice(sorted(FAMILIES[split])))
