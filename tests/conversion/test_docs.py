# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The commands of docs/conversion.md run as printed, one after the other, on tiny checkpoints under their names."""

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from tests.conversion.test_lora import PREFIX, low_rank
from tests.support.checkpoints import edit_json, read_weights, write_logits, write_released
from tests.support.paths import ROOT


TEXT = (ROOT / "docs/conversion.md").read_text()
SCRIPTS = ("convert_checkpoint", "export_checkpoint", "assemble", "convert_lora", "verify_checkpoint")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


def commands():
    return [line for block in blocks("bash") for line in block.splitlines()]


@pytest.fixture
def folder(reference, tmp_path, monkeypatch):
    """The folders and files that the commands name."""
    monkeypatch.chdir(tmp_path)
    released = write_released(reference, "c_llama", tmp_path / "llava-uhd-v2-vicuna-7b-released")
    edit_json(released / "config.json", mm_vision_tower="clip-vit-large-patch14-336")
    tower = json.loads((released / "vision_tower_config.json").read_text())
    CLIPVisionModel(CLIPVisionConfig.from_dict(tower)).save_pretrained("clip-vit-large-patch14-336")

    values = json.loads((released / "config.json").read_text())
    text_config = LlamaConfig(
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=values["vocab_size"],
    )
    LlamaForCausalLM(text_config).save_pretrained("vicuna-7b-v1.5")
    shutil.copytree(reference / "tokenizers/sentencepiece_llama_like", "vicuna-7b-v1.5", dirs_exist_ok=True)

    weights = read_weights(released)
    projector = {name: tensor for name, tensor in weights.items() if name.startswith("model.mm_projector.")}
    torch.save(projector, "mm_projector.bin")
    stack = "model.mm_projector.upsampler."
    vdim = {
        name.removeprefix(stack): tensor for name, tensor in projector.items() if name.startswith(stack + "upsampler.")
    }
    torch.save({"state_dict": vdim | {"scale_net.net.bias": torch.ones(1)}}, "clip-large-vdim.ckpt")

    lora = tmp_path / "llava-uhd-v2-lora"
    lora.mkdir()
    torch.save(low_rank(weights), lora / "adapter_model.bin")
    torch.save({PREFIX + name: tensor for name, tensor in projector.items()}, lora / "non_lora_trainables.bin")
    adapter = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    (lora / "adapter_config.json").write_text(json.dumps(adapter))
    return tmp_path


def test_every_script_has_a_command():
    assert {Path(shlex.split(command)[1]).stem for command in commands()} == {*SCRIPTS, "convert_7b"}
    assert {path.stem for path in (ROOT / "convert").glob("*.py")} >= set(SCRIPTS)


def test_commands_and_snippet_run_as_printed(folder):
    for command in commands():
        program, script, *arguments = shlex.split(command)
        assert program == "python" and (ROOT / script).is_file()
        if script.startswith("benchmarks/"):
            continue  # test_convert_at_scale.py runs it
        if "--logits" in arguments:
            write_logits(folder / "llava-uhd-v2-vicuna-7b", folder / "logits.safetensors")
        app = importlib.import_module(Path(script).stem).app
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{command}\n{result.output}"
    [snippet] = blocks("python")
    exec(snippet, namespace := {})  # noqa: S102
    merged = namespace["model"].state_dict()["model.language_model.layers.0.self_attn.q_proj.weight"]
    before = read_weights(folder / "llava-uhd-v2-vicuna-7b")["model.language_model.layers.0.self_attn.q_proj.weight"]
    assert not torch.equal(merged, before)
