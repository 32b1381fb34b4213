# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What every stage does with its `TrainingArguments` and its recipe."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from ..utils.atomic import atomic_write
from ..utils.strict_yaml import RENAMED


RECIPE_NAME = "recipe.yaml"
FINISHED = "The training in {} is finished: nothing was changed. Set another `training.output_dir` for a new one."
WINDOW = 10  # logged losses that a card averages


def share_batch(args: TrainingArguments, batch_size: int) -> None:
    """Sets what follows from the batch of all processes together: the batch of each, and gradient accumulation.

    Args:
        args: `per_device_train_batch_size` is the largest number of samples that a process takes at once.
        batch_size: samples a step.

    Raises:
        ValueError: if the batch can't be divided among the processes.
    """
    args._n_gpu = min(args.n_gpu, 1)  # several are used by several processes
    share, rest = divmod(batch_size, args.world_size)
    if rest or not share:
        raise ValueError(
            f"`batch_size`={batch_size} can't be divided among {args.world_size} processes; change either."
        )
    at_once = next(size for size in range(min(args.per_device_train_batch_size, share), 0, -1) if share % size == 0)
    args.per_device_train_batch_size = at_once
    args.gradient_accumulation_steps = share // at_once
    args.remove_unused_columns = False
    args.dataloader_pin_memory = args.dataloader_pin_memory and args.device.type != "cpu"
    if args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = False


def recipe_values(recipe: Any) -> dict[str, Any]:
    """The recipe as nested dicts, without what `TrainingArguments` has by default."""
    values = asdict(recipe) | {"training": {}}
    training = recipe.training.to_dict()
    # on the same device: every `TrainingArguments` sets the processes up anew, for all that there are
    default = TrainingArguments(report_to="none", use_cpu=recipe.training.use_cpu).to_dict() | {"use_cpu": False}
    values["training"] = {
        name: value
        for name, value in training.items()
        if value != default.get(name) and name not in RENAMED.values()  # every version reads the old names
    }
    return json.loads(json.dumps(values, default=str))


def write_recipe(folder: Path, values: dict[str, Any]) -> None:
    """Writes `folder`/recipe.yaml with the values of [`recipe_values`], under a temporary name first."""
    with atomic_write(folder / RECIPE_NAME) as unfinished:
        unfinished.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def is_finished(args: TrainingArguments, results: Iterable[str]) -> bool:
    """Returns whether a training in `args.output_dir` has taken all its steps and has written its result.

    Args:
        args: `max_steps` is the number of steps; below 1, the number is as it was when the training began.
        results: files of which one is there then; `Trainer.save_state` has been called after it was written.
    """
    folder = Path(args.output_dir)
    try:
        state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        steps = args.max_steps if args.max_steps > 0 else state["max_steps"]
        taken = state["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return taken >= steps and any((folder / name).is_file() for name in results)


def check_same_recipe(folder: Path, values: dict[str, Any], same: Iterable[str], free: Iterable[str] = ()) -> None:
    """
    Args:
        folder: of a training, with its recipe.yaml.
        values: of [`recipe_values`].
        same: keys and sections that must be as they were, such as "data" and "training.seed".
        free: keys in these sections that may differ, such as "data.images".

    Raises:
        ValueError: if a training of another recipe is in the folder, naming what differs.
    """
    path = folder / RECIPE_NAME
    if not path.is_file():
        return
    before, now = _flat(yaml.safe_load(path.read_text(encoding="utf-8"))), _flat(values)
    free = set(free)
    differing = [key for key in same if _section(before, key, free) != _section(now, key, free)]
    if differing:
        raise ValueError(
            f"{folder} has a training of another recipe ({', '.join(differing)} differ); choose another "
            "`training.output_dir`, or remove it."
        )


def _flat(values: dict[str, Any], section: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{section}{key}.") if isinstance(value, dict) else {f"{section}{key}": value}
    return flat


def _section(flat: dict[str, Any], key: str, free: set[str]) -> dict[str, Any]:
    return {name: v for name, v in flat.items() if (name == key or name.startswith(f"{key}.")) and name not in free}


def mean_losses(log_history: list[dict[str, float]]) -> dict[str, float]:
    """`first_loss` and `last_loss`, means of so many (`window`) logged losses, for a card."""
    losses = [entry["loss"] for entry in log_history if "loss" in entry]
    window = min(WINDOW, len(losses))
    return {
        "window": window,
        "first_loss": sum(losses[:window]) / max(window, 1),
        "last_loss": sum(losses[-window:]) / max(window, 1),
    }


__all__ = [
    "FINISHED",
    "RECIPE_NAME",
    "check_same_recipe",
    "is_finished",
    "mean_losses",
    "recipe_values",
    "share_batch",
    "write_recipe",
]
