# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Trainings of a tiny model, in this process or in others, for tests."""

import json
import os
import subprocess
import sys

import torch
from transformers import AutoModelForImageTextToText

from llava_uhd_v2_hf.data.mixtures import ConversationData
from llava_uhd_v2_hf.data.samples import ConversationDataset
from llava_uhd_v2_hf.training.parameter_groups import plan_parts
from llava_uhd_v2_hf.training.recipes import read_recipe
from llava_uhd_v2_hf.training.stage import read_stage
from llava_uhd_v2_hf.training.stages.finetune.recipe import FinetuneRecipe
from llava_uhd_v2_hf.training.stages.finetune.run import build_trainer, finetune, open_data, prepare_arguments
from tests.support.hub_process import CLI
from tests.support.paths import ROOT


ACCELERATE = ROOT / "src/llava_uhd_v2_hf/training/accelerate"
RECIPES = {"pretrain": "pretrain-vicuna-7b", "sft": "sft-paper"}
PLAIN = ("data.pre_resize=null",)


def settings(model, source, output, *more):
    return [
        f"model={model}",
        "batch_size=8",
        f"data.source={source}",
        "data.images=null",
        f"training.output_dir={output}",
        "training.max_steps=3",
        "training.learning_rate=1e-3",
        "training.per_device_train_batch_size=8",
        "training.logging_steps=1",
        "training.dataloader_num_workers=0",
        "training.report_to=none",
        "training.disable_tqdm=true",
        "training.use_cpu=true",
        "training.bf16=false",
        "training.train_sampling_strategy=random",
        *more,
    ]


def make_recipe(stage, *arguments):
    return read_recipe(FinetuneRecipe, RECIPES[stage], [*settings(*arguments), *PLAIN], stage=read_stage(stage))


def train(stage, *arguments):
    return finetune(make_recipe(stage, *arguments), read_stage(stage))


def trainer_of(recipe, stage):
    args = prepare_arguments(recipe)
    plan = plan_parts(recipe.parts, args)
    return build_trainer(recipe, read_stage(stage), args, plan, open_data(recipe, args, None))


def logged(output, step, name="loss"):
    history = json.loads((output / f"checkpoint-{step}/trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry[name] for entry in history if name in entry}


def load(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def dataset_of(source):
    return ConversationDataset(ConversationData(source=str(source)))


def run_command(*arguments, environment=os.environ, **options):
    environment = environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([*map(str, arguments)], env=environment, **options)


def command(stage, *arguments):
    return [*CLI, "train", stage, RECIPES[stage], *settings(*arguments), *PLAIN]
