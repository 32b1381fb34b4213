# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Packages that `make` installs apart from the environment."""

import os
import sys
from pathlib import Path

import pytest


def beside_the_environment(package: str) -> str:
    """Folder with a package that `make` installs apart from all others, for the path of one process."""
    folder = Path(sys.prefix) / package
    if not folder.is_dir() and "CI" not in os.environ:
        pytest.skip(f"{folder} is not there; `make test` installs it")
    return str(folder)
