# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Recipes: YAML files with the settings of a training, with `key=value` from the command line on top."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ..utils.strict_yaml import build, check, parse_yaml, set_override
from .machine import fit_accelerator, without_accelerator
from .named_files import read_named, shipped_files
from .stage import Stage


Recipe = TypeVar("Recipe")


def shipped_recipes(stage: str) -> dict[str, str]:
    """Returns the recipes of a stage that come with the package: name -> text of the file."""
    return shipped_files("recipes", f"{stage}-")


def read_recipe(kind: type[Recipe], source: str, overrides: Sequence[str] = (), *, stage: Stage) -> Recipe:
    """Reads a recipe. What it doesn't say is as the stage says, or else the default of the dataclass.

    Without a GPU, a recipe for one is read as one for the CPU, see [`fit_accelerator`].

    Args:
        kind: the dataclass of the recipes of the stage's family.
        source: a YAML file, or the name of a shipped recipe of the stage.
        overrides: `key=value` or `section.key=value`, values as in YAML; they replace those of the file.
        stage: has the default values.

    Raises:
        ValueError: if there is no such recipe, it is not valid YAML, or it or the stage has a key that is unknown or
            has a value that can't be used; the message names file and key.
    """
    check(kind, stage.recipe, f"`recipe` of the stage {stage.name}")
    values = parse_yaml(read_named("recipe", source, shipped_recipes(stage.name)), source)
    training: Any = None
    if isinstance(values, Mapping):
        values = _merge(copy.deepcopy(stage.recipe), values)
        for override in overrides:
            set_override(values, override)
        training = values.get("training")
    if not isinstance(training, dict):
        return build(kind, values, source)
    fit_accelerator(training)
    try:
        return build(kind, values, source)
    except ValueError:  # what is wrong on every machine comes first
        build(kind, values | {"training": without_accelerator(training)}, source)
        raise


def _merge(defaults: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults with the values on top, section by section."""
    for key, value in values.items():
        old = defaults.get(key)
        defaults[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return defaults


__all__ = ["read_recipe", "shipped_recipes"]
