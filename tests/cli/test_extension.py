# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""`llava-uhd-v2 --extension FILE`: kinds of a user's own in every command."""

import re
import shutil
import subprocess

import pytest
import torch
from PIL import Image

from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import UPSAMPLERS
from tests.extensions.outside import step_by_step
from tests.support.commands import assert_error, run_cli
from tests.support.finetune_data import write_checkpoint
from tests.support.hub_process import CLI


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    projector = {"upsampler": "step by step"}
    return write_checkpoint(tmp_path_factory.mktemp("up-sampler") / "model", width=32, projector=projector)


@pytest.fixture(scope="module")
def extension(tmp_path_factory):
    """The file by itself, where nothing imports it."""
    return shutil.copy(step_by_step.__file__, tmp_path_factory.mktemp("extension") / "my_upsampler.py")


def run(*arguments):
    return subprocess.run([*CLI, *map(str, arguments)], capture_output=True, text=True)


def test_a_checkpoint_with_a_kind_of_ones_own_is_inspected_and_exported(checkpoint, extension, tmp_path):
    Image.new("RGB", (90, 60)).save(tmp_path / "image.png")
    inspect = ["inspect", "--image", tmp_path / "image.png", "--model", checkpoint]
    refused = run(*inspect)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert re.search("`upsampler`: .*`step by step` is not supported.*--extension", refused.stderr)
    done = run("--extension", extension, *inspect)
    assert done.returncode == 0 and "tokens" in done.stdout, done.stderr
    exported = run("--extension", extension, "export", checkpoint, "--out", tmp_path / "exported", "--with-code")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "exported/my_upsampler.py").is_file()
    assert "my_upsampler" in (tmp_path / "exported/extensions_llava_uhd_v2.py").read_text()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("missing.py", None, ["There is no Python file"]),
        ("broken.py", "1 / 0", ["broken.py can't be run", "ZeroDivisionError"]),
        ("torch.py", "", ["rename it"]),
        ("two words.py", "", ["rename it"]),
    ],
)
def test_files_that_can_not_be_run_are_named(name, text, words, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert_error(run_cli("--extension", tmp_path / name, "data", "check", "nothing.json"), *words)
    assert torch.__file__ and UPSAMPLERS["vdim"]
