# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Code of a checkpoint: which files travel, and what loads with them, without the package and with it."""

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

from llava_uhd_v2_hf.hub.card import CardRequest
from llava_uhd_v2_hf.hub.code import AUTO_MAP, model_files
from llava_uhd_v2_hf.hub.export import export_checkpoint
from tests.support.auto_class_results import assert_same, compute
from tests.support.commands import assert_error, run_cli
from tests.support.hub_process import OWN_CARD
from tests.support.paths import GOLDEN, ROOT


def reachable_modules():
    """The modules that the five classes need, found by their syntax trees."""
    found, open_ = set(), {name.partition(".")[0] for name in AUTO_MAP.values()}
    while open_:
        name = open_.pop()
        found.add(f"{name}.py")
        for node in ast.walk(ast.parse(model_files()[f"{name}.py"].read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module, f"{name}.py may only have `from .module import name`"
                if f"{node.module}.py" not in found:
                    open_.add(node.module)
    return found


def test_installed_package_takes_its_own_classes_and_saves_without_code(checkpoint, tmp_path):
    export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    assert type(model).__module__ == "llava_uhd_v2_hf.model.modeling_llava_uhd_v2"
    assert type(processor).__module__ == "llava_uhd_v2_hf.model.processing_llava_uhd_v2"
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    processor.save_pretrained(saved)
    assert list(saved.glob("*.py")) == []
    for options in ({}, {"trust_remote_code": True}):
        assert type(AutoModelForImageTextToText.from_pretrained(saved, **options)) is type(model)
        assert type(AutoProcessor.from_pretrained(saved, **options)) is type(processor)
    # the config still says where the code was: a push without it would not load elsewhere
    assert_error(run_cli("push", saved, "org/name", *OWN_CARD, "--dry-run"), "modeling_llava_uhd_v2.py", "--with-code")
    assert run_cli("push", saved, "org/name", *OWN_CARD, "--with-code", "--dry-run").exit_code == 0


def test_plain_save_names_no_code(converted_checkpoint, tmp_path):
    AutoConfig.from_pretrained(converted_checkpoint).save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_folders_exported_before_load(tiny_checkpoint, tmp_path):
    """golden/exported_folder: configs of a model like tiny_checkpoint, exported before the package had rooms."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "exported"))
    shutil.copytree(GOLDEN / "exported_folder", folder, dirs_exist_ok=True)
    config, expected = (AutoConfig.from_pretrained(path).to_dict() for path in (folder, tiny_checkpoint))
    assert set(config.pop("auto_map").values()) == set(AUTO_MAP.values())
    assert {**config, "_name_or_path": ""} == {**expected, "_name_or_path": ""}
    for auto in (AutoModel, AutoModelForImageTextToText):
        model, report = auto.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"]
        assert type(model).__module__ == "llava_uhd_v2_hf.model.modeling_llava_uhd_v2"
    for auto in (AutoImageProcessor, AutoProcessor):
        found, expected = (auto.from_pretrained(path).to_dict() for path in (folder, tiny_checkpoint))
        for values in (found, found.get("image_processor", {})):
            values.pop("auto_map", None)
        assert found == expected


def test_everything_in_the_room_is_found_by_transformers():
    """`save_pretrained` of a model that was loaded with code copies what `from .module import` lines reach.

    Chat templates are read from the folder's chat_template.jinja, not from the module that has them.
    """
    assert reachable_modules() == model_files().keys() - {"chat_templates_llava_uhd_v2.py"}


@pytest.mark.slow
def test_code_loads_and_answers_without_the_package(clean_python, checkpoint, tmp_path):
    expected_command = {"env": os.environ | {"PYTHONPATH": str(ROOT / "src")}}
    expected = compute("package", checkpoint, tmp_path / "expected.safetensors", clean_python, **expected_command)
    export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    home = {"env": os.environ | {"HF_HOME": str(tmp_path / "home")}}
    results = compute("code", checkpoint, tmp_path / "results.safetensors", clean_python, isolated=True, **home)
    assert_same(results, expected)


@pytest.mark.slow
def test_snippet_of_the_card_runs_as_printed(clean_python, checkpoint, tmp_path):
    export_checkpoint(checkpoint, None, CardRequest("vicuna-7b"), with_code=True)
    [snippet] = re.findall(r"```python\n(.*?)```", (checkpoint / "README.md").read_text(), re.DOTALL)
    Image.effect_mandelbrot((640, 420), (-2, -1.2, 1, 1.2), 100).convert("RGB").save(tmp_path / "photo.jpg")
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    command = [clean_python, "-I", "-c", snippet]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
