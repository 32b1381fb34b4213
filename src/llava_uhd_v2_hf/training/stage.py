# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Stages of training: each is a YAML file that says which parts train, what checkpoints hold, and which data."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..utils.strict_yaml import build, parse_yaml
from .named_files import read_named, shipped_files


@dataclass
class Stage:
    """A stage of training.

    Args:
        family: what trains: `"finetune"` (parts of the model, on conversations), or `"vdim"` (the up-sampler alone, on
            images).
        save: what checkpoints of a training hold: `"model"` for a complete model that loads, `"trained"` for the
            trained weights alone, which resume only from the model that the training began with. An adapter is always
            saved alone.
        recipe: default values of the stage's recipes, in sections as in a recipe: `parts`, `data` and others.

    Attributes:
        name: of the stage's file, without suffix.
    """

    family: Literal["finetune", "vdim"]
    save: Literal["model", "trained"]
    recipe: dict[str, Any] = field(default_factory=dict)
    name: str = field(default="", init=False)


def shipped_stages() -> dict[str, str]:
    """Returns the stages that come with the package: name -> text of the file."""
    return shipped_files("stages")


def read_stage(name: str) -> Stage:
    """Reads a stage.

    Args:
        name: of a shipped stage, or the path of a YAML file with the keys of [`Stage`].

    Raises:
        ValueError: if there is no such stage, or its file has an unknown or missing key or a value that can't be used;
            the message names file and key.
    """
    text = read_named("stage", name, shipped_stages())
    stage = build(Stage, parse_yaml(text, name), name)
    stage.name = Path(name).stem
    return stage


__all__ = ["Stage", "read_stage", "shipped_stages"]
