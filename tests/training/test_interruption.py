# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Ctrl-C and SIGTERM in a training: what is kept, what is said, and that the same command goes on."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from llava_uhd_v2_hf.training import families
from llava_uhd_v2_hf.training.interruption import Interrupted
from llava_uhd_v2_hf.training.stage_trainer import StageTrainer
from llava_uhd_v2_hf.training.stages.vdim.run import train_vdim
from tests.support.finetune_runs import ACCELERATE, PLAIN, RECIPES, command, logged, run_command, settings, train
from tests.training.test_stage_vdim import make_recipe as make_vdim_recipe
from tests.training.test_stage_vdim import photographs, tower  # noqa: F401  fixtures


LORA = ["lora.r=2", "parts.vision_tower.train=false"]


@pytest.fixture
def interrupt(monkeypatch):
    """Sends this process signals in the second step, once."""
    training_step = StageTrainer.training_step

    def arm(*numbers):
        left = list(numbers)

        def step(trainer, *args, **kwargs):
            while left and trainer.state.global_step == 1:
                signal.raise_signal(left.pop(0))
            return training_step(trainer, *args, **kwargs)

        monkeypatch.setattr(StageTrainer, "training_step", step)

    return arm


@pytest.mark.parametrize(
    ("number", "stage", "more"),
    [
        (signal.SIGINT, "sft", LORA),
        pytest.param(signal.SIGTERM, "pretrain", ["training.per_device_train_batch_size=4"], marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "sft", ["training.save_strategy=no"], marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_training_saves_and_goes_on(number, stage, more, tiny_checkpoint, samples, tmp_path, interrupt):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    interrupt(number)
    with pytest.raises(Interrupted, match=r"out/checkpoint-2 is kept, and the same command goes on from it") as error:
        train(stage, tiny_checkpoint, samples, tmp_path / "out", *more)
    assert error.value.exit_code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not list((tmp_path / "out").glob("*.safetensors"))
    for run in ("out", "whole"):
        train(stage, tiny_checkpoint, samples, tmp_path / run, *more)
    [ours], [theirs] = ([*(tmp_path / run).glob("*.safetensors")] for run in ("out", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.slow
def test_an_interrupted_up_sampler_saves_and_goes_on(tower, photographs, tmp_path, interrupt):  # noqa: F811
    interrupt(signal.SIGINT)
    with pytest.raises(Interrupted, match="out/checkpoint-2 is kept"):
        train_vdim(make_vdim_recipe(tower, photographs, tmp_path / "out"))
    ours, theirs = (train_vdim(make_vdim_recipe(tower, photographs, tmp_path / run)) for run in ("out", "whole"))
    ours, theirs = load_file(ours), load_file(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_second_ctrl_c_stops_at_once(tiny_checkpoint, samples, tmp_path, interrupt):
    arguments = settings(tiny_checkpoint, samples, tmp_path / "out", *LORA, "training.save_steps=1")
    interrupt(signal.SIGINT, signal.SIGINT)
    with pytest.raises(Interrupted, match="out/checkpoint-1 is kept"):
        families.train("sft", RECIPES["sft"], [*arguments, *PLAIN])
    arguments = settings(tiny_checkpoint, samples, tmp_path / "other", *LORA)
    interrupt(signal.SIGINT, signal.SIGINT)
    with pytest.raises(Interrupted, match="there is no checkpoint yet, and the same command begins anew"):
        families.train("sft", RECIPES["sft"], [*arguments, *PLAIN])


@pytest.mark.slow
def test_a_signal_in_the_last_step_changes_nothing(tiny_checkpoint, samples, tmp_path, interrupt):
    interrupt(signal.SIGINT)
    output = train("sft", tiny_checkpoint, samples, tmp_path / "out", *LORA, "training.max_steps=2")
    assert (output / "adapter_config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_leaves_a_checkpoint(number, processes, tiny_checkpoint, samples, tmp_path):
    """A terminal and a scheduler send it to the workers of the data loader and to the launcher, too."""
    more = [*LORA, "training.max_steps=500", "training.dataloader_num_workers=2"]
    program = command("sft", tiny_checkpoint, samples, tmp_path / "out", *more)
    if processes > 1:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ACCELERATE / "ddp.yaml"]
        options = ["--num_processes", processes, "--main_process_port", "0", "--mixed_precision", "no", "--no_python"]
        program = [*launcher, *options, *program]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = run_command(*program, **pipes, start_new_session=True)
    for line in started.stdout:
        if "'loss'" in line:
            break
    os.killpg(started.pid, number)
    said = started.stdout.read()
    assert started.wait() == (128 + number if processes == 1 else 1)  # the launcher has its own exit code
    [checkpoint] = (tmp_path / "out").glob("checkpoint-*")
    assert f"Interrupted: {checkpoint} is kept, and the same command goes on from it." in said
    steps = json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
    assert processes > 1 or "Traceback" not in said
    train("sft", tiny_checkpoint, samples, tmp_path / "whole", *LORA, f"training.max_steps={steps}")
    assert logged(tmp_path / "out", steps)[1] == pytest.approx(logged(tmp_path / "whole", steps)[1], rel=1e-3)
