# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning that is killed and goes on, and in several processes."""

import json
import shutil
import signal
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.support.environments import beside_the_environment
from tests.support.finetune_runs import ACCELERATE, command, logged, run_command, train
from tests.support.hub_process import CLI
from tests.support.paths import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "more"), [("pretrain", []), ("sft", []), ("sft", ["lora.r=4"])])
def test_a_killed_training_goes_on_with_the_same_losses(stage, more, tiny_checkpoint, samples, tmp_path):
    """Five epochs, each in an order of its own; a checkpoint within an epoch."""
    more = ["training.max_steps=20", "training.save_steps=3", *more]
    killed = run_command(*command(stage, tiny_checkpoint, samples, tmp_path / "a", *more))
    deadline = time.monotonic() + 120
    while not (tmp_path / "a/checkpoint-6/trainer_state.json").exists():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not any((tmp_path / "a" / name).exists() for name in ("config.json", "adapter_config.json"))

    train(stage, tiny_checkpoint, samples, tmp_path / "a", *more)
    train(stage, tiny_checkpoint, samples, tmp_path / "b", *more)
    losses = logged(tmp_path / "a", 20)
    assert sorted(losses) == list(range(1, 21))
    assert losses == logged(tmp_path / "b", 20)
    name = "adapter_model.safetensors" if "lora.r=4" in more else "model.safetensors"
    ours, theirs = (load_file(tmp_path / run / name) for run in "ab")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def every_other(samples):
    """Every other sample is text, so that in some steps one of two processes has no image; images differ in shape."""
    records = json.loads(samples.read_text())
    for record in records[::2]:
        record.pop("image")
        record["conversations"][0]["value"] = record["conversations"][0]["value"].removeprefix("<image>\n")
    for number, record in enumerate(records[1::2]):
        image = Image.open(samples.with_name(record["image"]))
        record["image"] = f"shaped-{number}.png"
        image.resize((60 + 17 * number, 110)).save(samples.with_name(record["image"]))
    samples.with_name("every-other.json").write_text(json.dumps(records))
    return samples.with_name("every-other.json")


TOGETHER = ["chat_template=null", "upsampler_dropout=false", "batch_size=2"]
TOGETHER += ["training.max_steps=12", "training.save_steps=6"]


def launched(configuration, program):
    """Two processes of a program, by the configuration that the package has."""
    arguments = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ACCELERATE / configuration]
    arguments += ["--num_processes", "2", "--main_process_port", "0", "--mixed_precision", "no"]
    return run_command(*arguments, *program)


def launch(configuration, program):
    assert launched(configuration, program).wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_two_processes_have_the_curve_of_one(stage, tiny_checkpoint, every_other, tmp_path):
    launch("ddp.yaml", ["--no_python", *command(stage, tiny_checkpoint, every_other, tmp_path / "two", *TOGETHER)])
    assert "| hardware | 2 x CPU |" in (tmp_path / "two/README.md").read_text()
    train(stage, tiny_checkpoint, every_other, tmp_path / "one", *TOGETHER)
    one, two = (logged(tmp_path / run, 12) for run in ("one", "two"))
    assert sorted(one) == list(range(1, 13))
    assert two == pytest.approx(one, rel=1e-3)
    shutil.rmtree(tmp_path / "two/checkpoint-12")  # one process goes on where two stopped
    (tmp_path / "two/trainer_state.json").unlink()
    train(stage, tiny_checkpoint, every_other, tmp_path / "two", *TOGETHER)
    assert logged(tmp_path / "two", 12) == pytest.approx(one, rel=1e-3)


def use_deepspeed(monkeypatch):
    monkeypatch.syspath_prepend(beside_the_environment("deepspeed"))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


LORA = ["lora.r=4", "lora.dropout=0", "parts.vision_tower.train=false"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], LORA])
@pytest.mark.parametrize(
    ("configuration", "script"),
    [
        ("fsdp2.yaml", "finetune_fsdp.py"),
        ("zero1.yaml", "finetune_deepspeed.py"),
        ("zero3.yaml", "finetune_deepspeed.py"),
    ],
)
def test_two_sharded_processes_have_the_curve_of_one(
    configuration, script, more, tiny_checkpoint, every_other, tmp_path, monkeypatch
):
    if script == "finetune_deepspeed.py":
        use_deepspeed(monkeypatch)
    more = [*TOGETHER, *more, f"evaluation.data.source={every_other}", "evaluation.max_new_tokens=6"]
    more += ["evaluation.samples=7", "training.eval_strategy=steps", "training.eval_steps=6"]
    more += ["training.per_device_eval_batch_size=2"]
    arguments = command("sft", tiny_checkpoint, every_other, tmp_path / "two", *more)[len(CLI) :]
    program = [ROOT / "tests/support" / script, *arguments]
    launch(configuration, program)
    train("sft", tiny_checkpoint, every_other, tmp_path / "one", *more)
    one, two = (logged(tmp_path / run, 12) for run in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-3)
    assert logged(tmp_path / "two", 12, "eval_exact_match").keys() == {6, 12}
    name = "adapter_model.safetensors" if "lora.r=4" in more else "model.safetensors"
    for folder in ("", "checkpoint-12"):
        ours, theirs = (load_file(tmp_path / run / folder / name) for run in ("two", "one"))
        assert ours.keys() == theirs.keys()
        for key in theirs:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-4)
    shutil.rmtree(tmp_path / "two/checkpoint-12")
    (tmp_path / "two/trainer_state.json").unlink()
    launch(configuration, program)
    assert logged(tmp_path / "two", 12) == two


@pytest.mark.slow
def test_gradients_that_would_be_mixed_up_are_refused(tiny_checkpoint, every_other, tmp_path, monkeypatch, capfd):
    use_deepspeed(monkeypatch)
    arguments = command("sft", tiny_checkpoint, every_other, tmp_path, *TOGETHER)[len(CLI) :]
    program = ["--zero_stage", "2", ROOT / "tests/support/finetune_deepspeed.py", *arguments]
    assert launched("zero1.yaml", program).wait() == 1
    assert "Error: DeepSpeed's ZeRO stage 2" in capfd.readouterr().err
