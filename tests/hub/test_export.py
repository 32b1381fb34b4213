# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Export: card and code in the folder itself or in a copy, also when interrupted."""

import json
import os
import shutil

import pytest
from huggingface_hub import ModelCard

from llava_uhd_v2_hf.hub import export
from llava_uhd_v2_hf.hub.card import CardRequest
from llava_uhd_v2_hf.hub.checkpoint_folder import read_checkpoint
from llava_uhd_v2_hf.hub.code import AUTO_MAP, model_files
from llava_uhd_v2_hf.hub.export import export_checkpoint
from llava_uhd_v2_hf.utils import atomic
from tests.support.commands import assert_error, run_cli


def test_export_adds_card_and_code_to_the_folder(checkpoint):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    result = run_cli("export", checkpoint, "--with-code")
    assert result.exit_code == 0
    assert "license, base_model, datasets" in result.stderr

    added = {path.name for path in checkpoint.iterdir()} - set(before)
    assert added == set(model_files()) | {"README.md"}
    for name in set(model_files()):
        assert (checkpoint / name).read_bytes() == (model_files()[name]).read_bytes()
    changed = {name for name, content in before.items() if (checkpoint / name).read_bytes() != content}
    assert changed == {"config.json", "processor_config.json"}
    config = json.loads((checkpoint / "config.json").read_text())
    assert set(config.pop("auto_map")) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForImageTextToText",
        "AutoImageProcessor",
        "AutoProcessor",
    }
    assert config.pop("custom_pipelines") == {
        "image-text-to-text": {
            "impl": "pipeline_llava_uhd_v2.LlavaUhdV2Pipeline",
            "pt": ["AutoModelForImageTextToText"],
        }
    }
    assert config == json.loads(before["config.json"])
    assert AUTO_MAP["AutoModel"] == "modeling_llava_uhd_v2.LlavaUhdV2Model"
    assert read_checkpoint(checkpoint).has_code


def test_export_writes_a_copy(checkpoint, tmp_path):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    (checkpoint / "training_args.bin").write_bytes(b"pickle")
    out = tmp_path / "copy"
    arguments = ["export", checkpoint, "--with-code", "--out", out, "--repo-id", "org/name", "--card", "vicuna-7b"]
    result = run_cli(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    names = {path.name for path in out.iterdir()}
    assert names == set(before) | set(model_files()) | {"README.md"}
    assert (out / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert 'name = "org/name"' in ModelCard.load(out / "README.md").text
    assert (checkpoint / "config.json").read_bytes() == before["config.json"]
    assert_error(run_cli(*arguments), out, "not an empty folder")


def test_interrupted_export_leaves_what_loads(checkpoint, monkeypatch):
    calls = []

    def replace(source, target):
        calls.append(target)
        if len(calls) == 5:
            raise KeyboardInterrupt
        shutil.move(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    assert list(checkpoint.glob("*.partial")) == []
    assert not read_checkpoint(checkpoint).has_code

    monkeypatch.undo()
    export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    assert read_checkpoint(checkpoint).has_code


def test_interrupted_copy_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    copyfile = shutil.copyfile

    def fail_on_weights(source, target):
        copyfile(1 / 0 if source.suffix == ".safetensors" else source, target)

    monkeypatch.setattr(export.shutil, "copyfile", fail_on_weights)
    with pytest.raises(ZeroDivisionError):
        export_checkpoint(checkpoint, tmp_path / "copy", CardRequest(), with_code=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_copy_needs_space(checkpoint, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda folder: usage._replace(free=10**6))
    assert_error(run_cli("export", checkpoint, "--out", tmp_path / "new/copy"), "18 MB", "1 MB")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_code_of_an_earlier_export_is_replaced(checkpoint, tmp_path):
    export_checkpoint(checkpoint, None, CardRequest(), with_code=True)
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    (checkpoint / "renamed_since_llava_uhd_v2.py").write_text("")
    (checkpoint / "modeling_llava_uhd_v2.py").write_text("old")
    (checkpoint / "my_notes.py").write_text("")
    export_checkpoint(checkpoint, tmp_path / "as-it-is", CardRequest(), with_code=False)
    assert (tmp_path / "as-it-is/renamed_since_llava_uhd_v2.py").is_file()
    assert (tmp_path / "as-it-is/modeling_llava_uhd_v2.py").read_text() == "old"

    for folder, own in ((tmp_path / "copy", set()), (checkpoint, {"my_notes.py"})):
        export_checkpoint(checkpoint, folder, CardRequest(), with_code=True)
        assert {path.name for path in folder.iterdir()} == before.keys() | own
        assert (folder / "modeling_llava_uhd_v2.py").read_bytes() == before["modeling_llava_uhd_v2.py"]
