# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Environments of other processes: packages that `make` installs apart, and all packages but our own."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


def beside_the_environment(package: str) -> str:
    """Folder with a package that `make` installs apart from all others, for the path of one process."""
    folder = Path(sys.prefix) / package
    if not folder.is_dir() and "CI" not in os.environ:
        pytest.skip(f"{folder} is not there; `make test` installs it")
    return str(folder)


def make_environment(folder: Path, transformers: str | None = None) -> Path:
    """The Python of a new virtual environment that sees the packages of this one, but none installed editably.

    With `transformers`, that version of it and what it needs is installed there.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / f"lib/{version}/site-packages/others.pth").write_text("\n".join(sorted(places)) + "\n")
    if transformers:
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--retries", "2"]
        subprocess.run([*pip, f"transformers=={transformers}"], check=True)
    return python
