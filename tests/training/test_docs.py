# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The commands of docs/training.md, run one after the other."""

import re
import shlex
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from llava_uhd_v2_hf.inference.vdim_file import VdimFacts, save_vdim
from llava_uhd_v2_hf.model.configuration_llava_uhd_v2 import LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.model.upsamplers_vdim_llava_uhd_v2 import LlavaUhdV2Upsampler
from tests.support.finetune_runs import ACCELERATE, CLI, load, run_command
from tests.support.paths import GOLDEN, ROOT


def documented_commands():
    text = (ROOT / "docs/training.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture
def documented_files(tiny_checkpoint, samples, tmp_path):
    """The files and folders that the documentation names."""
    model = load(tiny_checkpoint)
    model.model.visual.vision_tower.save_pretrained(tmp_path / "clip-vit-large-patch14-336")
    text = LlamaForCausalLM(model.config.text_config)
    text.save_pretrained(tmp_path / "vicuna-7b-v1.5")
    shutil.copytree(GOLDEN / "tokenizers/sentencepiece_llama_like", tmp_path / "vicuna-7b-v1.5", dirs_exist_ok=True)
    (tmp_path / "vdim-clip-l-336").mkdir()
    projector = LlavaUhdV2ProjectorConfig()
    facts = VdimFacts("tower", "clip_vision_model", 32, 14, -2, 56, "clip", 2, projector.upsampler_kernel_size, 32)
    save_vdim(tmp_path / "vdim-clip-l-336", LlavaUhdV2Upsampler(projector, 32), facts)
    shutil.copytree(tiny_checkpoint, tmp_path / "llava-uhd-v2-vicuna-7b")
    shutil.copytree(samples.parent, tmp_path, dirs_exist_ok=True)
    shutil.copytree(samples.parent, tmp_path / "captions")
    shutil.copyfile(samples, tmp_path / "captions.json")
    shutil.copyfile(samples.parent / "000.png", tmp_path / "photo.jpg")
    shutil.copyfile(ACCELERATE / "ddp.yaml", tmp_path / "fsdp2.yaml")  # accelerate shards on accelerators alone
    return tmp_path


ADAPTER = "adapter_model.safetensors"
SMALL = ["batch_size=2", "data.pre_resize=null", "training.max_steps=2", "training.report_to=none"]
EXAMPLES = ("examples/train_with_trainer.py", "examples/sft_with_trl.py")
REPLACED = {"llava-uhd-v2": CLI, "python": [sys.executable]}
REPLACED |= {"hf": [sys.executable, "-m", "huggingface_hub.cli.hf"]}
REPLACED |= {"accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"]}
REPLACED |= {name: [str(ROOT / name)] for name in EXAMPLES}


@pytest.mark.slow
def test_the_documented_commands_run(documented_files, server, monkeypatch):
    """The same lines with a tiny model and few steps."""
    commands = documented_commands()
    assert len(commands) == 12
    for line in commands:
        words = shlex.split(line)
        program = [part for word in words for part in REPLACED.get(word, [word])]
        if "train" in words:
            source = [] if "data.source" in line else ["data.source=samples.json"]
            program += [*SMALL, *source]
        elif "assemble" in words:
            program += ["--row-separator-id", "13", "--slice-separator-id", "44"]
        elif words[1] in EXAMPLES:
            program += ["2"]
        if "accelerate" in words:
            place = program.index("--config_file")
            program[place:place] = ["--num_processes", "2", "--main_process_port", "0"]
        assert run_command(*program, cwd=documented_files, environment=server.environment()).wait() == 0, line
    monkeypatch.chdir(documented_files)  # an adapter names its checkpoint as the command did
    assert all(load(name) for name in ("sft-vicuna-7b", "trained", "trained-with-trl"))
    pushed, elsewhere = (load_file(documented_files / name / ADAPTER) for name in ("lora-pushed", "lora-elsewhere"))
    assert all(torch.equal(pushed[name], elsewhere[name]) for name in pushed)
