# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The package as `pip install .` leaves it: its files, its command, and what it needs of the extras."""

import configparser
import json
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.setup import imports_without_extras
from tests.support.paths import ROOT
from tests.support.wheel import build_wheel, clean_environment, without_clone


pytestmark = pytest.mark.slow

EXTRAS = ("train", "qlora", "serve", "demo", "vllm")
WITHOUT_EXTRAS = ("cli", "conversion", "hub", "inference", "model", "pictures", "utils")  # rooms
# lmms-eval and VLMEvalKit import these modules, and bring what they need
OF_HARNESSES = {
    "llava_uhd_v2_hf.evaluation.lmms_eval_manifest": "lmms_eval",
    "llava_uhd_v2_hf.evaluation.lmms_eval_model": "lmms_eval",
    "llava_uhd_v2_hf.evaluation.vlmevalkit": "pandas",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory) -> Path:
    return clean_environment(tmp_path_factory.mktemp("environment") / "venv", wheel)


def run(command, cwd) -> str:
    done = subprocess.run(command, cwd=cwd, env=without_clone(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_is_in_the_wheel(wheel):
    source = ROOT / "src"
    files = [path for path in (source / "llava_uhd_v2_hf").rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(source)) for path in files if path.suffix != ".pyc"}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wanted - names == set()
    for card in (ROOT / "model_cards").glob("*.md"):
        assert any(name.endswith(f"model_cards/{card.name}") for name in names)
    assert not any(name.startswith(("tests/", "convert/", "examples/")) for name in names)


def test_the_command_runs(programs, tmp_path):
    where = "import llava_uhd_v2_hf; print(llava_uhd_v2_hf.__file__)"
    assert run([programs / "python", "-c", where], tmp_path).startswith(str(programs.parent))
    assert {"ask", "inspect", "serve", "train"} <= set(run([programs / "llava-uhd-v2", "--help"], tmp_path).split())


def test_modules_need_only_their_extra(programs, tmp_path):
    missing = json.loads(run([programs / "python", imports_without_extras.__file__], tmp_path))
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    requirements = "\n".join(config["options.extras_require"][extra] for extra in EXTRAS)
    named = {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in requirements.split("\n") if line}
    modules = {"yaml" if name == "pyyaml" else name for name in named}
    others = {name: module for name, module in missing.items() if module and module not in modules}
    assert others == OF_HARNESSES

    rooms = tuple(f"llava_uhd_v2_hf.{room}" for room in WITHOUT_EXTRAS)
    assert [name for name, module in missing.items() if module and name.startswith(rooms)] == []
    assert missing["llava_uhd_v2_hf.demo.page"] == "gradio"
    assert missing["llava_uhd_v2_hf.serve.app"] == "fastapi"
