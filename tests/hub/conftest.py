# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints to publish, and environments without the package."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.support.environments import make_environment
from tests.support.paths import ROOT


OLDEST_TRANSFORMERS = "5.19.0"


@pytest.fixture
def checkpoint(converted_checkpoint, tmp_path):
    """A copy of the converted checkpoint, to write to."""
    return Path(shutil.copytree(converted_checkpoint, tmp_path / "model"))


@pytest.fixture(scope="session")
def large_checkpoint(converted_checkpoint, tmp_path_factory):
    """The converted checkpoint in float32: 36 MB in one file."""
    folder = Path(shutil.copytree(converted_checkpoint, tmp_path_factory.mktemp("large") / "model"))
    AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).save_pretrained(folder)
    assert (folder / "model.safetensors").stat().st_size > 30e6
    return folder


@pytest.fixture(scope="session")
def oldest_environment():
    """The Python of an environment with the oldest transformers that is supported; kept in .cache."""
    folder = ROOT / f".cache/transformers-{OLDEST_TRANSFORMERS}"
    finished = folder / "finished"  # by which Python and for which packages
    mark = f"{sys.executable} {sys.version}"
    if not finished.is_file() or finished.read_text() != mark:
        shutil.rmtree(folder, ignore_errors=True)
        make_environment(folder, OLDEST_TRANSFORMERS)
        finished.write_text(mark)
    return folder / "bin/python"


@pytest.fixture(params=["newest", pytest.param("oldest", id=OLDEST_TRANSFORMERS)])
def clean_python(request, tmp_path):
    """A Python with transformers, of the installed or the oldest version, and without our package."""
    if request.param == "oldest":
        python = request.getfixturevalue("oldest_environment")
        command = [python, "-I", "-c", "import transformers; print(transformers.__version__)"]
        assert subprocess.check_output(command, text=True).strip() == OLDEST_TRANSFORMERS
        return python
    return make_environment(tmp_path / "venv")
