# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Families of stages: which recipes they have, and what trains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .folder_lock import locked_folder
from .interruption import Interrupted
from .recipes import read_recipe
from .stage import Stage, read_stage
from .stages.finetune.recipe import FinetuneRecipe
from .stages.finetune.run import finetune
from .stages.vdim.recipe import VdimRecipe
from .stages.vdim.run import train_vdim


@dataclass(frozen=True)
class Family:
    """What the stages of a family have in common.

    Args:
        recipe: the dataclass of their recipes.
        train: trains by a recipe of a stage; returns what it has written.
        save: the values of `save` that a stage may have, see [`Stage`].
    """

    recipe: type
    train: Callable[[Any, Stage], Path]
    save: tuple[str, ...]


FAMILIES = {
    "finetune": Family(FinetuneRecipe, finetune, ("model", "trained")),
    "vdim": Family(VdimRecipe, lambda recipe, _: train_vdim(recipe), ("trained",)),
}


def train(stage: str, recipe: str, overrides: Sequence[str] = ()) -> Path:
    """Trains by a recipe of a stage, or resumes from the last checkpoint in the recipe's `training.output_dir`.

    Args:
        stage: name of a shipped stage, or path of a stage's YAML file, see [`Stage`].
        recipe: name of a shipped recipe of the stage, or path of a recipe's YAML file.
        overrides: `key=value`, see [`read_recipe`].

    Returns:
        What was written: the folder with the model or adapter, or the file with the up-sampler.

    Raises:
        Interrupted: after SIGINT or SIGTERM.
        OSError, ValueError: if stage, recipe, model or data can't be used, another training runs in the folder, or
            this one has to stop.
    """
    read = read_stage(stage)
    family = FAMILIES[read.family]
    if read.save not in family.save:
        raise ValueError(
            f"{stage}: `save`={read.save!r} can't be used with `family`={read.family!r}; it must be "
            f"{' or '.join(map(repr, family.save))}."
        )
    settings: Any = read_recipe(family.recipe, recipe, overrides, stage=read)
    try:
        with locked_folder(settings.training):
            return family.train(settings, read)
    except Interrupted:
        raise
    except KeyboardInterrupt as interrupt:
        raise Interrupted(Path(settings.training.output_dir)) from interrupt


__all__ = ["FAMILIES", "Family", "train"]
