# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The card of a fine-tuned model or adapter: facts of the training, and what was measured in it."""

from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from peft import PeftModel

from ....data.mixtures import read_sources
from ....hub.card import LIBRARY, PIPELINE_TAG, TAGS
from ....inference.checkpoints import base_of, is_adapter
from ...card import render_card
from ...run_state import mean_losses
from .recipe import FinetuneRecipe
from .trainer import FinetuneTrainer


PACKAGES = ("llava-uhd-v2-hf", "transformers", "torch", "peft", "accelerate")


def write_card(folder: Path, trainer: FinetuneTrainer, recipe: FinetuneRecipe, stage: str) -> None:
    """Writes README.md, see card.md."""
    args, data = trainer.args, recipe.data
    evaluations = [entry for entry in trainer.state.log_history if "eval_exact_match" in entry]
    adapter = isinstance(trainer.model, PeftModel)
    base = base_of(recipe.model) if is_adapter(recipe.model) else recipe.model
    sources = [source.path for source in read_sources(data)]
    render_card(
        folder,
        resources.files(__package__) / "card.md",
        ModelCardData(
            library_name="peft" if adapter else LIBRARY,
            pipeline_tag=PIPELINE_TAG,
            tags=TAGS,
            base_model=None if Path(base).exists() else base,
            datasets=[source for source in sources if not Path(source).exists()] or None,
        ),
        title=folder.resolve().name,
        name=trainer.hub_model_id if args.push_to_hub else folder.resolve().name,
        adapter=adapter,
        model=shown_name(recipe.model),
        stage=stage,
        data=shown_name(data.source),
        samples=f"{len(trainer.train_dataset):,}" if hasattr(trainer.train_dataset, "__len__") else "streamed",
        max_slices=trainer.data_collator.max_slices,
        steps=trainer.state.global_step,
        batch_size=recipe.batch_size,
        parts=", ".join(f"{part} ({rates.learning_rate:g})" for part, rates in trainer.plan.items()),
        optimizer=args.optim.value,
        schedule=f"{args.lr_scheduler_type.value} schedule",
        precision="bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
        exact_match=[(entry["step"], entry["eval_exact_match"]) for entry in evaluations[-1:]],
        held_out=shown_name(recipe.evaluation.data.source) if recipe.evaluation is not None else "",
        hardware=describe_hardware(args.world_size),
        versions=", ".join(f"{name} {number}" for name, number in installed_versions().items()),
        **mean_losses(trainer.state.log_history),
    )


def shown_name(source: str) -> str:
    """The name of a file or folder without its place; Hub ids as they are."""
    return Path(source).resolve().name if Path(source).exists() else source


def describe_hardware(processes: int) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{processes} x {device}" if processes > 1 else device


def installed_versions() -> dict[str, Any]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


__all__ = ["write_card"]
