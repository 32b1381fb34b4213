# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The commands of docs/conversion.md run as printed, one after the other, on tiny checkpoints under their names.

The scripts of convert/ take the same arguments.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from tests.conversion.test_lora import PREFIX, low_rank
from tests.conversion.test_sources import publish
from tests.support.checkpoints import edit_json, read_weights, write_logits, write_released
from tests.support.hub_process import CLI
from tests.support.paths import ROOT


TEXT = (ROOT / "docs/conversion.md").read_text()
SCRIPTS = {
    "convert_checkpoint": "convert",
    "export_checkpoint": "export-released",
    "assemble": "assemble",
    "convert_lora": "convert-lora",
    "verify_checkpoint": "verify",
}
HUB_ID = re.compile(r"(org|openai|lmsys)/[\w.-]+")


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


def test_every_command_is_documented_and_has_its_script():
    assert {shlex.split(command)[1] for command in commands()} == {*SCRIPTS.values(), "benchmarks/convert_7b.py"}
    assert {path.stem for path in (ROOT / "convert").glob("*.py")} == SCRIPTS.keys()
    assert all(len(path.read_text().splitlines()) <= 10 for path in (ROOT / "convert").glob("*.py"))


def test_commands_and_snippet_run_as_printed(folder):
    ran = 0
    for command in commands():
        program, name, *arguments = shlex.split(command)
        if name == "benchmarks/convert_7b.py":
            continue  # test_convert_at_scale.py runs it
        if any(argument.endswith(".gguf") for argument in arguments):
            continue  # test_language_model.py runs it
        assert program == "llava-uhd-v2"
        if any(HUB_ID.fullmatch(argument) for argument in arguments):
            continue  # the next test runs it
        if "--logits" in arguments:
            write_logits(folder / "llava-uhd-v2-vicuna-7b", folder / "logits.safetensors")
        result = CliRunner().invoke(app, [name, *arguments])
        assert result.exit_code == 0, f"{command}\n{result.output}"
        ran += 1
    assert ran >= 11
    [snippet] = blocks("python")
    exec(snippet, namespace := {})  # noqa: S102
    merged = namespace["model"].state_dict()["model.language_model.layers.0.self_attn.q_proj.weight"]
    before = read_weights(folder / "llava-uhd-v2-vicuna-7b")["model.language_model.layers.0.self_attn.q_proj.weight"]
    assert not torch.equal(merged, before)


@pytest.mark.slow
def test_commands_with_hub_ids_run_as_printed(folder, server, converted_checkpoint):
    folders = {
        "org/llava-uhd-v2-vicuna-7b-released": folder / "llava-uhd-v2-vicuna-7b-released",
        "openai/clip-vit-large-patch14-336": folder / "clip-vit-large-patch14-336",
        "lmsys/vicuna-7b-v1.5": folder / "vicuna-7b-v1.5",
        "org/llava-uhd-v2-vicuna-7b": converted_checkpoint,
    }
    publish(server, folders)
    with_ids = [command for command in commands() if any(map(HUB_ID.fullmatch, shlex.split(command)))]
    assert {word for command in with_ids for word in shlex.split(command) if HUB_ID.fullmatch(word)} == folders.keys()
    for command in with_ids:
        result = server.run([*CLI, *shlex.split(command)[1:]], cwd=folder)
        assert result.returncode == 0, f"{command}\n{result.stderr}"


def options_of(help_text):
    return set(re.findall(r"--[a-z-]+", help_text))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_take_the_arguments_of_their_command(script):
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    run = [sys.executable, ROOT / f"convert/{script}.py"]
    shown = subprocess.run([*run, "--help"], capture_output=True, text=True, env=environment)
    expected = CliRunner().invoke(app, [SCRIPTS[script], "--help"], env=environment).output
    assert shown.returncode == 0 and f"{script}.py" in shown.stdout
    assert options_of(shown.stdout) == options_of(expected)
    missing = subprocess.run([*run, *["missing"] * expected.count("[required]")], capture_output=True, text=True)
    result = CliRunner().invoke(app, [SCRIPTS[script], *["missing"] * expected.count("[required]")])
    assert missing.returncode == result.exit_code != 0
    assert "missing" in missing.stderr and "Traceback" not in missing.stderr
