# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning that is killed and goes on, and in several processes."""

import json
import shutil
import signal
import sys
import time

import pytest
import sharded_steps
import torch
from conftest import ROOT
from finetune_runs import ACCELERATE, command, logged, run_command, train
from safetensors.torch import load_file


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
    """Every other sample is text, so that in some steps one of two processes has no image."""
    records = json.loads(samples.read_text())
    for record in records[::2]:
        record.pop("image")
        record["conversations"][0]["value"] = record["conversations"][0]["value"].removeprefix("<image>\n")
    samples.with_name("every-other.json").write_text(json.dumps(records))
    return samples.with_name("every-other.json")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_two_processes_have_the_curve_of_one(stage, tiny_checkpoint, every_other, tmp_path):
    more = ["chat_template=null", "upsampler_dropout=false", "batch_size=2"]
    more += ["training.max_steps=12", "training.save_steps=6"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ACCELERATE / "ddp.yaml"]
    launch += ["--num_processes", "2", "--main_process_port", "0", "--no_python"]
    assert run_command(*launch, *command(stage, tiny_checkpoint, every_other, tmp_path / "two", *more)).wait() == 0
    assert "| hardware | 2 x CPU |" in (tmp_path / "two/README.md").read_text()
    train(stage, tiny_checkpoint, every_other, tmp_path / "one", *more)
    one, two = (logged(tmp_path / run, 12) for run in ("one", "two"))
    assert sorted(one) == list(range(1, 13))
    assert two == pytest.approx(one, rel=1e-3)
    shutil.rmtree(tmp_path / "two/checkpoint-12")  # one process goes on where two stopped
    train(stage, tiny_checkpoint, every_other, tmp_path / "two", *more)
    assert logged(tmp_path / "two", 12) == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
def test_sharded_processes_take_the_steps_of_one(tiny_checkpoint, every_other, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = ROOT / "tests/sharded_steps.py"
    assert run_command(*launch, script, tiny_checkpoint, every_other, tmp_path / "two.pt").wait() == 0
    model = sharded_steps.load(tiny_checkpoint)
    losses = sharded_steps.take_steps(model, tiny_checkpoint, str(every_other))
    sharded = torch.load(tmp_path / "two.pt", weights_only=True)
    torch.testing.assert_close(sharded["losses"], losses, rtol=1e-4, atol=0)
    assert losses[-1] != losses[0]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(sharded["state"][name], parameter.detach(), rtol=1e-4, atol=1e-5)
