# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Copies the card templates of model_cards/ into the package when it is built; everything else is in setup.cfg."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithModelCards(build_py):
    """Adds model_cards/*.md as data files of `llava_uhd_v2_hf.hub`, for wheels and source distributions."""

    def finalize_options(self) -> None:
        super().finalize_options()
        cards = sorted(path.name for path in Path("model_cards").glob("*.md"))
        if not cards:
            raise FileNotFoundError("Expected card templates in model_cards/ beside setup.py, found none.")
        target = str(Path(self.build_lib, "llava_uhd_v2_hf/hub/model_cards"))
        self.data_files.append(("llava_uhd_v2_hf.hub", "model_cards", target, cards))


setup(cmdclass={"build_py": BuildWithModelCards})
