# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""An installed wheel converts, answers and exports by itself, away from the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from tests.support.paths import GOLDEN, ROOT


SOURCES = ("LICENSE", "README.md", "model_cards", "pyproject.toml", "setup.cfg", "setup.py", "src")
VISION_CONFIG = GOLDEN / "e2e/c_llama/checkpoint/vision_tower_config.json"


@pytest.fixture(scope="module")
def wheel_environment(tmp_path_factory) -> Path:
    """A virtual environment with the wheel, which sees the other packages of this one, but none installed editably."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip"]
    offline = ["--quiet", "--no-deps", "--no-index"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder, folder / "source"]
    subprocess.run(build, check=True)
    shutil.rmtree(folder / "source")

    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "--python", environment / "bin/python", "install", *offline, wheel], check=True)
    # after the installation, during which pip would find the package that is installed there
    paths = {"base": str(environment), "platbase": str(environment)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    others = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (packages / "others.pth").write_text("\n".join(others) + "\n")
    return environment


@pytest.mark.slow
def test_the_wheel_converts_answers_and_exports(wheel_environment, authors_checkpoint, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    image = tmp_path / "photo.png"
    Image.effect_mandelbrot((640, 420), (-2, -1.2, 1, 1.2), 100).convert("RGB").save(image)

    def run(*command):
        done = subprocess.run(command, cwd=work, env=environment, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import llava_uhd_v2_hf; print(llava_uhd_v2_hf.__file__)"
    assert Path(run(wheel_environment / "bin/python", "-c", code).strip()).is_relative_to(wheel_environment)
    program = wheel_environment / "bin/llava-uhd-v2"
    assert "Saved in" in run(program, "convert", authors_checkpoint, "model", "--vision-config", VISION_CONFIG)
    run(program, "ask", "What is this?", "--model", "model", "--image", image, "--max-new-tokens", "3")
    assert "Complete: model" in run(program, "export", "model", "--card", "vicuna-7b")
    card = ModelCard.load(work / "model/README.md")
    assert card.data.license == "llama2" and "reported in the paper" in card.text
    assert [path.name for path in work.iterdir()] == ["model"]
