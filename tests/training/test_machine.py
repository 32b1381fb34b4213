# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Recipes on the machine that there is: GPU or CPU, cores, loggers."""

import os

import pytest
import torch
from transformers import AutoProcessor, TrainingArguments, training_args
from transformers.integrations import integration_utils
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.training.families import FAMILIES
from llava_uhd_v2_hf.training.machine import limit_workers
from llava_uhd_v2_hf.training.recipes import read_recipe, shipped_recipes
from llava_uhd_v2_hf.training.stage import read_stage, shipped_stages
from llava_uhd_v2_hf.training.stages.finetune import run as finetune_run
from llava_uhd_v2_hf.training.stages.vdim import run as vdim_run
from tests.support.finetune_data import write_checkpoint


RECIPES = [(stage, recipe) for stage in shipped_stages() for recipe in shipped_recipes(stage)]


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(training_args, "is_torch_bf16_gpu_available", lambda: False)


def read(stage, recipe, *overrides):
    kind = FAMILIES[read_stage(stage).family].recipe
    return read_recipe(kind, recipe, ["training.report_to=none", *overrides], stage=read_stage(stage))


@pytest.mark.parametrize(("stage", "recipe"), RECIPES)
def test_every_shipped_recipe_is_read_without_a_gpu(stage, recipe, no_gpu):
    args = read(stage, recipe).training
    assert not (args.bf16 or args.fp16) and args.device.type == "cpu"
    args = read(stage, recipe, "training.use_cpu=true", "training.bf16=true").training
    assert args.bf16 and args.use_cpu  # as it says


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size=0"], "`batch_size` must be at least 1"),
        (["training.max_stepps=1"], "did you mean `training.max_steps`?"),
        (["lora.r=0"], "`lora.r` and `lora.alpha` must be at least 1"),
        (["data.streaming=true"], "`data.streaming`=true needs `training.max_steps`"),
        ([], "Your setup doesn't support bf16/gpu"),
    ],
)
def test_errors_of_keys_come_before_those_of_hardware(overrides, message, no_gpu):
    with pytest.raises(ValueError) as error:
        read("sft", "sft-lora", "training.use_cpu=false", *overrides)
    assert message in str(error.value)


def test_there_are_no_more_workers_than_cores(monkeypatch):
    for cores, processes, asked, workers in [(2, 1, 4, 2), (8, 1, 4, 4), (8, 4, 4, 2), (1, 2, 4, 1), (2, 1, 0, 0)]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        args = TrainingArguments(report_to="none", use_cpu=True, dataloader_num_workers=asked)
        limit_workers(args)
        assert args.dataloader_num_workers == workers


@pytest.mark.parametrize(("stage", "recipe"), [("sft", "sft-lora"), ("vdim", "vdim-clip-l-336-paper")])
@pytest.mark.parametrize(("logger", "message"), [("wandb", "requires wandb to be installed"), ("x", "x is not supp")])
def test_a_logger_that_is_not_there_is_named_before_anything_is_loaded(stage, recipe, logger, message, monkeypatch):
    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: False)
    prepare = {"sft": finetune_run, "vdim": vdim_run}[stage].prepare_arguments
    with pytest.raises(ValueError, match=rf"`training.report_to`={logger} can't be used: .*{message}.*set it to none"):
        prepare(read(stage, recipe, f"training.report_to={logger}"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["sft-lora", "sft-qlora"])
def test_the_printed_commands_run_on_a_cpu_and_answer_with_the_slices_of_training(
    recipe, samples, tmp_path, no_gpu, recwarn
):
    """They take the processor's slices; a training told to take others has them in its result's processor."""
    model = write_checkpoint(tmp_path / "model", width=128)  # the narrowest that 4-bit layers run on a CPU
    arguments = ["train", "sft", recipe, f"model={model}", f"data.source={samples}"]
    for output, more, slices in (("own", [], 9), ("told", ["data.max_slices=3", "training.max_steps=1"], 3)):
        result = CliRunner().invoke(app, [*arguments, f"training.output_dir={tmp_path / output}", *more])
        assert result.exit_code == 0, result.output
        assert "32 samples / batch 16 = 2 steps" in result.stdout and f"at most: {slices}." in result.stdout
        for folder in (tmp_path / output, *(tmp_path / output).glob("checkpoint-*")):
            assert AutoProcessor.from_pretrained(folder).image_processor.max_slices == slices
    assert not [warning for warning in recwarn if "worker" in str(warning.message)]
