# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Verification finds every difference between a checkpoint and its source, and says so by its exit status."""

import json
import shutil

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.conversion.export import export_checkpoint
from llava_uhd_v2_hf.conversion.verify import verify_checkpoint
from tests.support.checkpoints import convert, edit_json, read_weights, write_logits, write_released


@pytest.fixture(scope="module")
def source(reference, tmp_path_factory):
    return write_released(reference, "c_llama", tmp_path_factory.mktemp("released") / "c_llama")


@pytest.fixture
def checkpoint(converted_checkpoint, tmp_path):
    """A tiny checkpoint of ours to be spoilt."""
    return shutil.copytree(converted_checkpoint, tmp_path / "ours")


def run(*arguments):
    result = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_conversion_has_no_difference(source, converted_checkpoint):
    status, output = run(source, converted_checkpoint)
    assert status == 0, output
    lines = {line.split("  ")[0]: line.split() for line in output.splitlines()}
    assert lines["vision tower"][-3:] == ["55", "175,296", "0"]
    assert lines["released, but not used"][-1] == "65"
    assert output.rstrip().endswith("No difference (bfloat16).")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_another_dtype_is_compared_after_rounding(source, tmp_path, dtype):
    output = convert(source, tmp_path / "ours", dtype=dtype, skip_tokenizer=True)
    assert verify_checkpoint(source, output)


def test_an_export_is_compared_too(converted_checkpoint, tmp_path):
    exported = tmp_path / "exported"
    export_checkpoint(converted_checkpoint, exported)
    assert run(converted_checkpoint, exported)[0] == 0
    weights = read_weights(exported)
    weights["model.mm_projector.ln_q.bias"][7] += 1
    save_file(weights, exported / "model.safetensors")
    status, output = run(converted_checkpoint, exported)
    assert status == 1
    assert "window_attention.norm_query.bias`, by up to 1" in output


def test_every_spoilt_tensor_is_named(source, checkpoint):
    weights = read_weights(checkpoint)
    weights["model.language_model.norm.weight"][3] += 0.5
    weights["model.visual.projector.upsampler.stages.1.range_temperature"] += 2
    weights["lm_head.weight"][5, 6] = float("nan")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    status, output = run(source, checkpoint)
    assert status == 1
    assert "tensor: `model.language_model.norm.weight`, by up to 0.5" in output
    assert "tensor: `model.visual.projector.upsampler.stages.1.range_temperature`, by up to 2" in output
    assert "tensor: `lm_head.weight`, by up to inf" in output
    assert output.rstrip().endswith("3 difference(s).")


def test_a_missing_tensor_and_a_changed_configuration_are_named(source, checkpoint):
    weights = read_weights(checkpoint)
    del weights["model.language_model.norm.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-3
    edit_json(checkpoint / "config.json", text_config=config["text_config"], token_layout="spatial")
    status, output = run(source, checkpoint)
    assert status == 1
    assert "loading: missing_keys: {'model.language_model.norm.weight'}" in output
    assert "config: `text_config.rms_norm_eps` is 0.001, must be 1e-05" in output
    assert "config: `token_layout` is 'spatial', must be 'sequential'" in output


def test_folders_that_can_not_be_compared(source, checkpoint, tmp_path):
    assert run(source, source)[0] == 1
    assert "One folder must be a released checkpoint" in run(source, source)[1]
    data = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(data[: len(data) // 2])
    status, output = run(source, checkpoint)
    assert (status, "truncated" in output) == (1, True)
    (checkpoint / "model.safetensors").unlink()
    assert "no weights" in run(source, checkpoint)[1]


def test_logits_of_another_run(source, checkpoint, tmp_path):
    write_logits(checkpoint, tmp_path / "logits.safetensors")
    status, output = run(source, checkpoint, "--logits", tmp_path / "logits.safetensors")
    assert status == 0, output
    status, output = run(source, checkpoint, "--logits", tmp_path / "logits.safetensors", "--tolerance", 0)
    assert (status, "logits: by up to" in output) == (1, True)
