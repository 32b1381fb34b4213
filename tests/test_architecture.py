# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The import contracts of setup.cfg: they hold, and each of them fails for an import that it forbids."""

import configparser
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.support.paths import ROOT


PACKAGE = ROOT / "src/llava_uhd_v2_hf"
ROOMS = "Rooms import only rooms below them"
MODEL = "The model imports nothing outside its folder"
TORCH = "Configuration, geometry and registries import no torch"
STAGES = "Stages of training are independent"
FAMILIES = "Stages of training are imported by their families alone"

# contract, file of the package, and the import that is added to it
FORBIDDEN = [
    (ROOMS, "data/labels.py", "from ..training import run_state"),
    (ROOMS, "data/labels.py", "from ..inference import chat"),
    (ROOMS, "inference/chat.py", "from ..pictures import canvas"),
    (ROOMS, "inference/chat.py", "from .. import training"),
    (ROOMS, "pictures/canvas.py", "from ..training.curves import draw_curves"),
    (ROOMS, "pictures/canvas.py", "from ..demo import page"),
    (ROOMS, "hub/card.py", "from ..training import card"),
    (ROOMS, "hub/card.py", "from ..cli import support"),
    (ROOMS, "conversion/weight_map.py", "from ..serve import errors"),
    (ROOMS, "serve/text.py", "from ..training import evaluation"),
    (ROOMS, "serve/text.py", "from ..evaluation import questions"),
    (ROOMS, "demo/page.py", "from ..serve import engine"),
    (ROOMS, "evaluation/questions.py", "from ..demo import backend"),
    (ROOMS, "training/run_state.py", "from ..evaluation import record"),
    (ROOMS, "utils/errors.py", "from ..model import geometry_llava_uhd_v2"),
    (ROOMS, "model/vision_llava_uhd_v2.py", "from ..utils import errors"),
    (MODEL, "model/vision_llava_uhd_v2.py", "from .. import LlavaUhdV2Config"),
    (TORCH, "model/geometry_llava_uhd_v2.py", "import torch"),
    (TORCH, "model/configuration_llava_uhd_v2.py", "from torch import nn"),
    (TORCH, "model/registries_llava_uhd_v2.py", "from . import vision_llava_uhd_v2"),
    (STAGES, "training/stages/finetune/recipe.py", "from ..vdim import losses"),
    (STAGES, "training/stages/vdim/recipe.py", "from ..finetune.trainer import FinetuneTrainer"),
    (FAMILIES, "training/adapters.py", "from .stages.finetune import recipe"),
]


@pytest.fixture
def package(tmp_path):
    """A copy of the package, to be changed."""
    ignored = shutil.ignore_patterns("__pycache__", "*.yaml", "*.md")
    return shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=ignored)


def lint_imports(folder: Path) -> tuple[int, str]:
    """The exit status and the output of import-linter for the package in a folder."""
    program = Path(sysconfig.get_path("scripts"), "lint-imports")
    command = [program, "--no-cache", "--no-logo", ROOT / "setup.cfg"]
    environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def append(module: Path, line: str) -> None:
    module.write_text(f"{module.read_text()}\n{line}\n")


def test_every_contract_is_kept():
    status, output = lint_imports(PACKAGE.parent)
    assert status == 0, output


@pytest.mark.parametrize(("contract", "module", "line"), FORBIDDEN)
def test_a_forbidden_import_breaks_its_contract(package, contract, module, line):
    append(package / module, line)
    status, output = lint_imports(package.parent)
    assert status == 1 and f"{contract} BROKEN" in output, output
    assert "llava_uhd_v2_hf." + module.removesuffix(".py").replace("/", ".") in output


def test_every_contract_has_a_forbidden_import():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    names = {section["name"] for name, section in config.items() if name.startswith("importlinter:contract:")}
    assert names == {contract for contract, *_ in FORBIDDEN}


def test_an_import_for_annotations_alone_is_allowed(package):
    append(package / "data/labels.py", "from typing import TYPE_CHECKING\n")
    append(package / "data/labels.py", "if TYPE_CHECKING:\n    from ..training import run_state")
    status, output = lint_imports(package.parent)
    assert f"{ROOMS} KEPT" in output, output


def test_a_new_room_needs_a_place(package):
    (package / "attic").mkdir()
    (package / "attic/__init__.py").touch()
    status, output = lint_imports(package.parent)
    assert status == 1 and "attic" in output, output
