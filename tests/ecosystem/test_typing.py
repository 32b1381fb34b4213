# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Annotations as a user's type checker meets them: it runs elsewhere, without this repository's settings."""

import re
import shutil
import subprocess
import sys
import zipfile

import mypy.version  # noqa: F401  a missing client fails here
import pytest

from tests.ecosystem import user_script
from tests.support.paths import ROOT


# not all functions of transformers itself are annotated
OPTIONS = ("--strict", "--allow-untyped-calls")
SOURCES = ("LICENSE", "README.md", "model_cards", "pyproject.toml", "setup.cfg", "setup.py", "src")

MISTAKES = """
from PIL import Image

from llava_uhd_v2_hf import (
    LlavaUhdV2Config,
    LlavaUhdV2ForConditionalGeneration,
    LlavaUhdV2ImageProcessor,
    LlavaUhdV2Processor,
    LlavaUhdV2ProjectorConfig,
)
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import plan_slices
from llava_uhd_v2_hf.data.collation import ConversationCollator
from llava_uhd_v2_hf.data.mixtures import ConversationData


def use(model: LlavaUhdV2ForConditionalGeneration, processor: LlavaUhdV2Processor, image: Image.Image) -> None:
    LlavaUhdV2ProjectorConfig(levls=[0])  # call-arg
    LlavaUhdV2Config(token_layout="spatil")  # arg-type
    LlavaUhdV2Config(projector_config=[0, 1])  # arg-type
    config = model.config
    config.projector_config = "bilinear"  # assignment
    config.projector_config.levels.sort_by  # union-attr
    config.image_token_id.upper()  # attr-defined

    LlavaUhdV2ImageProcessor(max_slices="six")  # arg-type
    LlavaUhdV2ImageProcessor(max_slice=6)  # call-arg
    image_processor = LlavaUhdV2ImageProcessor()
    image_processor.max_slice  # attr-defined
    image_processor(image, max_slices="six")  # arg-type
    image_processor(7)  # arg-type
    image_processor.slice_plan("tall", 3)  # arg-type

    processor(image=image, text="<image>")  # call-arg
    processor(images=7, text="<image>")  # arg-type
    processor(images=image, text=7)  # arg-type
    processor(images=image, text="<image>", max_slices="six")  # arg-type
    processor.image_processor.max_slice  # attr-defined
    processor.query_gird  # attr-defined
    LlavaUhdV2Processor(processor.tokenizer)  # arg-type

    model.get_image_features(image)  # call-arg arg-type
    model.fold_projektor()  # operator
    model.fold_projector("all")  # call-arg

    plan_slices(1.5, 2, max_slices=6, slice_resolution=336, patch_size=14)  # arg-type
    plan_slices(1, 2, max_slices=6, slice_size=336, patch_size=14)  # call-arg
    ConversationCollator(processor, label_rule="chatml")  # arg-type
    ConversationCollator(processor, max_len=512)  # call-arg
    ConversationData(sources="samples.json")  # call-arg
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list[tuple[int, str]]]:
    """Script -> lines and codes of its errors; in one run, since to read transformers takes half a minute."""
    folder = tmp_path_factory.mktemp("scripts")
    shutil.copy(user_script.__file__, folder)
    (folder / "mistakes.py").write_text(MISTAKES)
    command = [sys.executable, "-m", "mypy", "--config-file=", *OPTIONS, "user_script.py", "mistakes.py"]
    checked = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert "(checked 2 source files)" in checked.stdout, checked.stdout + checked.stderr
    errors = re.findall(r"^(.+):(\d+): error: .*\[([a-z-]+)\]$", checked.stdout, re.MULTILINE)
    return {file: sorted({(int(line), code) for name, line, code in errors if name == file}) for file, *_ in errors}


@pytest.mark.client("mypy", "a user's script with our classes and the Auto classes passes, with strict options")
def test_a_users_script_passes(found):
    assert "user_script.py" not in found


@pytest.mark.client("mypy", "wrong arguments and misspelt names of our classes are found, each in its line")
def test_mistakes_are_found(found):
    wanted = [
        (number, code)
        for number, line in enumerate(MISTAKES.splitlines(), start=1)
        for code in line.partition("  # ")[2].split()
    ]
    assert found["mistakes.py"] == sorted(wanted)


@pytest.mark.client("mypy", "an installed wheel has the marker `py.typed`, so that its annotations are read")
def test_an_installed_package_is_typed(tmp_path):
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", tmp_path / "wheels"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, tmp_path], check=True)
    [wheel] = (tmp_path / "wheels").glob("*.whl")
    assert "llava_uhd_v2_hf/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_the_users_script_runs(tiny_checkpoint, samples, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["user_script.py", str(tiny_checkpoint), str(samples), str(tmp_path / "out")])
    user_script.main()
    printed = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)
    assert {"answer", "answers", "tokens", "settings", "loss"} <= set(printed)
    assert float(printed["loss"]) > 0 and int(printed["tokens"]) == 2 * 25
    assert "'levels': [0, 1], 'fewer levels': [0]" in printed["settings"]
    assert (tmp_path / "out/model.safetensors").is_file() and (tmp_path / "out/processor_config.json").is_file()
