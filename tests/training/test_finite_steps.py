# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Losses, gradients and weights that are not finite end every training, and nothing is saved of them."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.training import families
from llava_uhd_v2_hf.training.finite_steps import MOST_OVERFLOWS, FiniteSteps, NotFiniteError
from llava_uhd_v2_hf.training.stage_trainer import StageTrainer
from tests.support.finetune_runs import PLAIN, RECIPES, command, logged, settings, train
from tests.support.hub_process import CLI
from tests.support.paths import ROOT
from tests.training.test_finetune_processes import launched, use_deepspeed


LORA = ["lora.r=2", "parts.vision_tower.train=false"]
PLACE = r"\S+samples\.json:\d+, record \d+ \(id \d+\)"
OWN_STAGE = """
family: finetune
save: trained
recipe: {chat_template: plain, parts: {positions: {train: true, learning_rate: 0.01}}, data: {max_slices: 1}}
"""


def saved_tensors(folder):
    files = list(folder.rglob("*model.safetensors"))
    return [tensor for file in files for tensor in load_file(file).values()]


@pytest.fixture
def spoil(monkeypatch):
    """Makes one loss, or the gradient behind a finite loss, not finite: in the second batch of a step."""
    compute_loss = StageTrainer.compute_loss

    def arm(step, what):
        def compute(trainer, model, inputs, *args, **kwargs):
            loss = compute_loss(trainer, model, inputs, *args, **kwargs)
            if trainer.state.global_step == step - 1 and len(trainer.finite_steps.batches) == 1:
                weight = next(each for each in model.parameters() if each.requires_grad).flatten()[0]
                slope = (weight - weight.detach()).abs().sqrt()  # 0, and infinitely steep
                loss = loss * math.nan if what == "loss" else loss + slope
            return loss

        monkeypatch.setattr(StageTrainer, "compute_loss", compute)

    return arm


@pytest.mark.parametrize(
    ("stage", "what", "more"),
    [
        ("sft", "loss", LORA),
        ("pretrain", "gradient", []),
        pytest.param("own", "loss", [], marks=pytest.mark.slow),
        pytest.param("sft", "gradient", ["training.max_grad_norm=0"], marks=pytest.mark.slow),
    ],
)
def test_a_fault_in_a_step_names_its_samples(
    stage, what, more, tiny_checkpoint, samples, tmp_path, spoil, monkeypatch
):
    spoil(3, what)
    more = [*more, "training.per_device_train_batch_size=2", "training.save_steps=1"]
    arguments = [*settings(tiny_checkpoint, samples, tmp_path / "out", *more), *PLAIN]
    name, recipe = stage, RECIPES.get(stage)
    if stage == "own":
        name, recipe = str(tmp_path / "own.yaml"), str(tmp_path / "recipe.yaml")
        Path(name).write_text(OWN_STAGE)
        Path(recipe).write_text("batch_size: 8")
    of_batch = 2 if what == "loss" else 8
    samples_said = rf"{PLACE}(, {PLACE}){{{of_batch - 1}}}"
    with pytest.raises(NotFiniteError, match=rf"^The {what} is not finite at step 3: {samples_said}; look at these"):
        families.train(name, recipe, arguments)
    output = tmp_path / "out"
    assert {path.name for path in output.glob("checkpoint-*")} >= {"checkpoint-2"}
    assert not (output / "checkpoint-3").exists() and not list(output.glob("*.safetensors"))
    assert all(tensor.isfinite().all() for tensor in saved_tensors(output))
    assert all(map(math.isfinite, logged(output, 2).values()))


def test_the_checkpoint_before_is_kept_until_the_new_one_is_known_to_be_good(
    tiny_checkpoint, samples, tmp_path, spoil
):
    spoil(3, "loss")
    more = [*LORA, "training.per_device_train_batch_size=4", "training.save_steps=1", "training.save_total_limit=1"]
    with pytest.raises(NotFiniteError):
        train("sft", tiny_checkpoint, samples, tmp_path / "out", *more)
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}


@pytest.mark.parametrize("save", ["steps", pytest.param("no", marks=pytest.mark.slow)])
def test_weights_that_are_not_finite_are_not_saved(save, tiny_checkpoint, samples, tmp_path):
    more = [*LORA, "training.learning_rate=1e39", "training.warmup_steps=0", "training.max_steps=1"]
    with pytest.raises(NotFiniteError, match=r"^\d+ weights are not finite after step 1, such as \S+, \S+, \S+: not"):
        train("sft", tiny_checkpoint, samples, tmp_path / "out", *more, f"training.save_strategy={save}")
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_the_command_ends_with_one_line(tiny_checkpoint, samples, tmp_path):
    more = [*LORA, "training.learning_rate=1e30", "training.save_steps=1"]
    arguments = command("sft", tiny_checkpoint, samples, tmp_path / "out", *more)[len(CLI) :]
    ended = CliRunner().invoke(app, list(map(str, arguments)))
    assert ended.exit_code == 1 and isinstance(ended.exception, SystemExit) and "Saved" not in ended.stdout
    assert re.match(r"Error: The loss is not finite at step 3: ", ended.stderr.strip().splitlines()[-1])
    assert all(tensor.isfinite().all() for tensor in saved_tensors(tmp_path / "out"))


def steps_of(precision):
    return FiniteSteps(SimpleNamespace(num_processes=1, process_index=0, device="cpu", mixed_precision=precision))


@pytest.mark.parametrize("norm", [math.nan, math.inf, -1.0, torch.tensor(math.nan)])
def test_a_scaler_of_float16_may_leave_out_steps_but_not_all(norm):
    def take(steps, norm):
        steps.add(torch.tensor(1.0), ["a", "b"])
        steps.check(7, norm)

    for precision in ("no", "bf16"):
        with pytest.raises(NotFiniteError, match="The gradient is not finite at step 7: a, b; look"):
            take(steps_of(precision), norm)
    steps = steps_of("fp16")
    for _ in range(3):
        for _ in range(MOST_OVERFLOWS - 1):
            take(steps, norm)
        take(steps, 1.0)
    for _ in range(MOST_OVERFLOWS - 1):
        take(steps, norm)
    with pytest.raises(NotFiniteError, match=f"at step 7, for {MOST_OVERFLOWS} steps in a row: a, b; look"):
        take(steps, norm)
    steps.add(torch.tensor(math.nan), ["c"])
    with pytest.raises(NotFiniteError, match="The loss is not finite at step 1: c; look"):
        steps.check(1, norm)


@pytest.mark.slow
@pytest.mark.parametrize("configuration", ["ddp.yaml", "fsdp2.yaml", "zero3.yaml"])
def test_several_processes_stop_together(configuration, tiny_checkpoint, samples, tmp_path, monkeypatch, capfd):
    if configuration.startswith("zero"):
        use_deepspeed(monkeypatch)
    more = ["training.learning_rate=1e30", "training.save_steps=1", "chat_template=null"]
    program = command("sft", tiny_checkpoint, samples, tmp_path / "out", *more)
    scripts = {"fsdp2.yaml": "finetune_fsdp.py", "zero3.yaml": "finetune_deepspeed.py"}
    if configuration == "ddp.yaml":
        program = ["--no_python", *program]
    else:
        program = [ROOT / "tests/support" / scripts[configuration], *program[len(CLI) :]]
    process = launched(configuration, program)
    assert process.wait(timeout=120) == 1
    said = capfd.readouterr().err
    assert re.search(r"Error: (The (loss|gradient) is|\d+ weights are) not finite (at|after) step [123]", said)
    assert saved_tensors(tmp_path / "out") and not (tmp_path / "out/model.safetensors").exists()
    assert all(tensor.isfinite().all() for tensor in saved_tensors(tmp_path / "out"))
