# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Recipes: YAML files, read strictly into typed dataclasses, with `key=value` on the command line on top.

A recipe is a dataclass whose fields are values or dataclasses (sections, which may be null where the type says so);
`section.key=value` sets a section's field.
"""

import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from huggingface_hub.dataclasses import type_validator


Recipe = TypeVar("Recipe")
# fields of `TrainingArguments` that newer versions of transformers warn of, and what they call them
RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


class _Loader(yaml.SafeLoader):
    """Reads `no` as text, not as false, and 1e-3 as a number, as YAML 1.2 does and PyYAML by itself does not."""


_BOOLEAN, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def shipped_recipes(stage: str) -> dict[str, str]:
    """The recipes of a stage that come with the package: name -> text of the file."""
    folder = resources.files("llava_uhd_v2_hf.training") / "recipes"
    files = [file for file in folder.iterdir() if file.name.startswith(f"{stage}-") and file.name.endswith(".yaml")]
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in sorted(files, key=str)}


def read_recipe(kind: type[Recipe], source: str, overrides: Sequence[str] = (), *, stage: str) -> Recipe:
    """Reads a recipe.

    Args:
        kind: the dataclass of the stage's recipes.
        source: a YAML file, or the name of a shipped recipe.
        overrides: `key=value` or `section.key=value`, values as in YAML; they replace those of the file.
        stage: first word of the names of the shipped recipes.

    Raises:
        ValueError: if there is no such recipe, it is no YAML, or a key is unknown or has a value that can't be used;
            the message names it.
    """
    values = parse_yaml(_read_source(source, stage), source)
    if not isinstance(values, dict):
        raise ValueError(f"The recipe {source} must be `key: value` lines, but is a {type(values).__name__}.")
    for override in overrides:
        _set_override(values, override)
    return build(kind, values)


def build(kind: type[Recipe], values: Mapping[str, Any], section: str = "", whole: type | None = None) -> Recipe:
    """A dataclass from nested mappings.

    Args:
        kind: the dataclass.
        values: of its fields; a mapping for a field that is a dataclass.
        section: where it stands in the recipe, such as "training."; for messages.
        whole: dataclass of the whole recipe; `kind` itself by default. For messages.

    Raises:
        ValueError: as [`read_recipe`].
    """
    whole = whole or kind
    hints = get_type_hints(kind)
    allowed = {field.name: hints[field.name] for field in _settable(kind)}
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        key = RENAMED[key] if RENAMED.get(key) in allowed else key
        if key not in allowed:
            raise ValueError(_describe_unknown(f"{section}{key}", whole))
        name, part = f"{section}{key}", _section_type(allowed[key])
        if part is not None and not (value is None and part is not allowed[key]):
            if not isinstance(value, Mapping):
                raise ValueError(f"`{name}` is a section of the recipe and needs keys, such as `{name}.key`.")
            arguments[key] = build(part, value, f"{name}.", whole)
        else:
            arguments[key] = _check_type(name, value, allowed[key])
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"The recipe's {section.rstrip('.') or 'keys'} can't be used: {error}") from error


def _read_source(source: str, stage: str) -> str:
    shipped = shipped_recipes(stage)
    if source in shipped:
        return shipped[source]
    if not Path(source).is_file():
        raise ValueError(f"There is no recipe file {source}; give a YAML file, or one of {', '.join(shipped)}.")
    try:
        return Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"The recipe {source} is no text in UTF-8: {error}.") from error


def parse_yaml(text: str, name: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is no YAML: {' '.join(str(error).split())}") from error


def _set_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"{override!r} is no `key=value`.")
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise ValueError(f"`{key}` can't be set: `{section}` is no section of the recipe.")
    values[last] = parse_yaml(text, f"The value of `{key}`")


def _check_type(name: str, value: Any, hint: Any) -> Any:
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if float in kinds and int not in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    try:
        type_validator(name, value, hint)
    except TypeError as error:
        raise ValueError(f"`{name}`={value!r} can't be used; it must be {_describe_type(hint)}.") from error
    except ValueError as error:
        raise ValueError(f"`{name}`={value!r} can't be used: {error}") from error
    return value


def _describe_type(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe_type(kind) for kind in get_args(hint))
    if hint is type(None):
        return "null"
    return " or ".join(map(repr, get_args(hint))) if get_args(hint) else getattr(hint, "__name__", str(hint))


def _section_type(hint: Any) -> Any:
    """The dataclass of a section, also of one that may be null; None if the hint is no section's."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((kind for kind in kinds if is_dataclass(kind)), None)


def _settable(kind: type) -> list[Any]:
    return [field for field in fields(kind) if field.init]


def _all_names(kind: type, section: str = "") -> Iterator[str]:
    hints = get_type_hints(kind)
    for field in _settable(kind):
        yield f"{section}{field.name}"
        part = _section_type(hints[field.name])
        if part is not None:
            yield from _all_names(part, f"{section}{field.name}.")


def _describe_unknown(name: str, whole: type) -> str:
    known = list(_all_names(whole))
    last = name.rpartition(".")[2]
    near = [key for key in known if key.rpartition(".")[2] == last]
    near += difflib.get_close_matches(name, known, n=3)
    by_last = {key.rpartition(".")[2]: key for key in known}
    near += [by_last[key] for key in difflib.get_close_matches(last, by_last, n=2)]
    near = list(dict.fromkeys(near))[:4]
    section = name.rpartition(".")[0]
    siblings = [key for key in known if key.rpartition(".")[0] == section]
    hint = f"did you mean {' or '.join(f'`{key}`' for key in near)}?" if near else f"known: {', '.join(siblings)}."
    return f"The recipe has an unknown key `{name}`; {hint}"


__all__ = ["RENAMED", "build", "read_recipe", "shipped_recipes"]
