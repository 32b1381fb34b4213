# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Trainings that push to the Hub as they go: they go on from there, and what they leave there answers."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from llava_uhd_v2_hf.training.checkpoints import trained_steps
from tests.support.finetune_runs import command, logged, train
from tests.support.hub_process import CLI


STEPS = 24
STEPS_AND_SAVES = [f"training.max_steps={STEPS}", "training.save_steps=3"]
PUSHED = [
    *STEPS_AND_SAVES,
    "training.push_to_hub=true",
    "training.hub_model_id=org/tuned",
    "training.hub_strategy=checkpoint",
]
KINDS = {"pretrain": [], "sft": [], "lora": ["lora.r=4", "parts.vision_tower.train=false"]}

# what AutoModel and AutoProcessor make of folders and repositories, by the logits of an answer's first token
LOGITS = """
import json
import sys
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
import llava_uhd_v2_hf

image, *names = sys.argv[1:]
content = [{"type": "image", "url": image}, {"type": "text", "text": "Where is red?"}]
found = []
for name in names:
    inputs = AutoProcessor.from_pretrained(name).apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )
    model = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.float32)
    found.append(model(**inputs).logits[0, -1].tolist())
print(json.dumps(found))
"""


@pytest.fixture
def base(server, tiny_checkpoint):
    result = server.push(tiny_checkpoint, "org/base")
    assert result.returncode == 0, result.stderr
    return "org/base"


def stage_of(kind):
    return "pretrain" if kind == "pretrain" else "sft"


def line(kind, samples, output, *more):
    return command(stage_of(kind), "org/base", samples, output, *PUSHED, *KINDS[kind], *more)


def run(server, arguments, cwd=None):
    done = server.run([str(argument) for argument in arguments], cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.usefixtures("base")
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_goes_on_from_what_it_has_pushed(kind, server, tiny_checkpoint, samples, tmp_path):
    server.ask("/api/repos/create", {"organization": "org", "name": "tuned"})
    arguments = [*map(str, line(kind, samples, tmp_path / "first"))]
    with subprocess.Popen(arguments, env=server.environment()) as killed:
        while "last-checkpoint/trainer_state.json" not in server.files("org/tuned"):
            assert killed.poll() is None
            time.sleep(0.1)
        killed.kill()
    shutil.rmtree(tmp_path / "first")  # the machine is gone

    download = [sys.executable, "-m", "huggingface_hub.cli.hf", "download", "org/tuned", "--local-dir"]
    run(server, [*download, tmp_path / "second"])
    assert trained_steps(tmp_path / "second/last-checkpoint") < STEPS
    run(server, line(kind, samples, tmp_path / "second"))
    train(stage_of(kind), tiny_checkpoint, samples, tmp_path / "whole", *STEPS_AND_SAVES, *KINDS[kind])
    assert logged(tmp_path / "second", STEPS) == logged(tmp_path / "whole", STEPS)

    files = server.files("org/tuned")
    name = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    assert {name, "README.md", "recipe.yaml", "chat_template.jinja", "tokenizer.json", "losses.png"} <= files
    assert not any(file.startswith("checkpoint-") for file in files)
    run(server, [*download, tmp_path / "result"])
    ours, theirs = (load_file(tmp_path / folder / name) for folder in ("result", "whole"))
    assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)

    image = samples.with_name("000.png")
    names = ["org/tuned", tmp_path / "whole", "org/base"]
    pushed, local, before = json.loads(run(server, [sys.executable, "-c", LOGITS, image, *names]).stdout)
    assert pushed == pytest.approx(local, abs=1e-4)
    assert max(abs(ours - theirs) for ours, theirs in zip(pushed, before)) > 0.01


CARD = """
import sys
from huggingface_hub import ModelCard

card = ModelCard.load(sys.argv[1])
card.validate()
print(card)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("base")
def test_the_end_of_a_training_is_pushed_even_if_checkpoints_were_not(server, samples, tmp_path):
    server.ask("/_test/faults", [{"method": "POST", "path": "/commit/", "times": 2, "status": 403}])
    more = ["training.max_steps=3"]
    done = run(server, line("lora", samples, tmp_path / "out", *more))
    assert "was not pushed to org/tuned; training continues. " in done.stderr
    assert "adapter_model.safetensors" in server.files("org/tuned")
    card = run(server, [sys.executable, "-c", CARD, "org/tuned"]).stdout
    assert "base_model: org/base" in card and "library_name: peft" in card
    merged = run(server, [*CLI, "merge", "org/tuned", tmp_path / "merged"])
    assert (tmp_path / "merged/model.safetensors").is_file(), merged.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("base")
def test_who_may_not_push_learns_it_before_the_first_step(server, samples, tmp_path):
    arguments = [*map(str, line("sft", samples, tmp_path / "out"))]
    done = server.run(arguments, token="reader")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("Error: 403")
    assert not (tmp_path / "out").exists()
