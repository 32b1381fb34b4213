# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The package as users install it: its wheel, and an environment that has the wheel and no clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.paths import ROOT


FOLDERS = ("model_cards", "src")  # and every file beside them
LEFT_OVERS = shutil.ignore_patterns("*.egg-info", "__pycache__")  # setuptools would take file lists from the first


def build_wheel(folder: Path) -> Path:
    """Builds the wheel from a copy of the sources, without network.

    Args:
        folder: where copy and wheel are written; it may exist.
    """
    copy = folder / "sources"
    copy.mkdir(parents=True)
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, copy)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=LEFT_OVERS)
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, copy], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def clean_environment(folder: Path, wheel: Path) -> Path:
    """Makes a virtual environment with the wheel and the packages of this environment, but none installed editably.

    Returns:
        The folder with its programs: `python`, `llava-uhd-v2`.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    programs = folder / "bin"
    # Python reads .pth files in folders of packages, but not in those that a .pth file adds
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / f"lib/{version}/site-packages/others.pth").write_text("\n".join(sorted(places)) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--ignore-installed", wheel], check=True)
    return programs


def without_clone() -> dict[str, str]:
    """The environment variables of a process that must not find this clone."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
