# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Reads YAML strictly into typed dataclasses.

A field of such a dataclass is a value or a section: another dataclass, which may be null where the type says so.
"""

import difflib
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from huggingface_hub.dataclasses import type_validator


Kind = TypeVar("Kind")
# fields of `TrainingArguments` that newer versions of transformers warn of, and what they call them
RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
_SHOWN_KEYS = 20
_NEAR = 0.75  # of `difflib`: three quarters of the letters are the same


class _Loader(yaml.SafeLoader):
    """Reads `no` as text, not as false, and 1e-3 as a number, as YAML 1.2 does and PyYAML by itself does not."""


_BOOLEAN, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def parse_yaml(text: str, name: str) -> Any:
    """Parses YAML 1.2: `no` is text, 1e-3 is a number.

    Args:
        text: the YAML.
        name: of the file, for messages.

    Raises:
        ValueError: if the text is not valid YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def set_override(values: dict[str, Any], override: str) -> None:
    """Sets one value in nested mappings, in place.

    Args:
        values: the mappings.
        override: `key=value` or `section.key=value`, the value as in YAML.

    Raises:
        ValueError: if `override` has another form, or names a section that is a value.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"Expected `key=value`, got {override!r}.")
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise ValueError(f"`{key}` can't be set: `{section}` is not a section.")
    values[last] = parse_yaml(text, f"The value of `{key}`")


def build(kind: type[Kind], values: Any, name: str, section: str = "") -> Kind:
    """Builds a dataclass from nested mappings.

    Args:
        kind: the dataclass.
        values: a mapping with values of its fields, and a mapping for each field that is a section.
        name: of the file that the values are from; messages begin with it.
        section: where the values stand in the file, such as "training."; for messages.

    Raises:
        ValueError: if a key is unknown or missing, or has a value that can't be used; the message names file and key.
    """
    try:
        return _build(kind, _check(kind, values, section, kind), section)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check(kind: type, values: Any, name: str) -> dict[str, Any]:
    """Checks the keys and types of a part of a file; keys may be missing.

    Args:
        kind: the dataclass of the whole file.
        values: a mapping, see [`build`].
        name: see [`build`].

    Returns:
        The values, integers as floats where a float is expected.

    Raises:
        ValueError: if a key is unknown or has a value of another type; the message names file and key.
    """
    try:
        return _check(kind, values, "", kind)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check(kind: type, values: Any, section: str, whole: type) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        if section:
            raise ValueError(f"`{section.rstrip('.')}` is a section and needs keys, such as `{section}key`.")
        raise ValueError(f"the file must be `key: value` lines, but is a {type(values).__name__}.")
    hints = get_type_hints(kind)
    allowed = {field.name: hints[field.name] for field in _settable(kind)}
    checked: dict[str, Any] = {}
    for key, value in values.items():
        key = RENAMED[key] if RENAMED.get(key) in allowed else key
        if key not in allowed:
            raise ValueError(_describe_unknown(f"{section}{key}", whole))
        part = _section_type(allowed[key])
        if part is not None and not (value is None and part is not allowed[key]):
            checked[key] = _check(part, value, f"{section}{key}.", whole)
        else:
            checked[key] = _check_type(f"{section}{key}", value, allowed[key])
    return checked


def _build(kind: type[Kind], values: Mapping[str, Any], section: str) -> Kind:
    hints, arguments = get_type_hints(kind), {}
    for field in _settable(kind):
        if field.name in values:
            value, part = values[field.name], _section_type(hints[field.name])
            is_section = part is not None and value is not None
            arguments[field.name] = _build(part, value, f"{section}{field.name}.") if is_section else value
        elif field.default is MISSING and field.default_factory is MISSING:
            where = f"{section.rstrip('.')} can't be used: " if section else ""
            raise ValueError(f"{where}the key '{field.name}' is missing.")
    try:
        return kind(**arguments)
    except TypeError as error:  # of a constructor that checks more than its types
        raise ValueError(f"{section.rstrip('.') or 'the file'} can't be used: {error}") from error


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
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return str(hint) if get_args(hint) else getattr(hint, "__name__", str(hint))


def _section_type(hint: Any) -> Any:
    """The dataclass of a section, also of one that may be null; None if the hint is not a section's."""
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
    section, _, last = name.rpartition(".")
    siblings = [key for key in known if key.rpartition(".")[0] == section]
    near = _same_name(last, known) or _close_names(last, siblings) or _close_names(last, known)
    if near:
        hint = f"did you mean {' or '.join(f'`{key}`' for key in near)}?"
    elif len(siblings) <= _SHOWN_KEYS:
        hint = f"known: {', '.join(siblings)}."
    else:
        hint = f"`{section}` has {len(siblings)} keys, none with a similar name."
    return f"unknown key `{name}`; {hint}"


def _same_name(last: str, keys: list[str]) -> list[str]:
    """The keys of that name that are the least deep in sections."""
    same = [key for key in keys if key.rpartition(".")[2] == last]
    depth = min((key.count(".") for key in same), default=0)
    return [key for key in same if key.count(".") == depth]


def _close_names(last: str, keys: list[str]) -> list[str]:
    """The keys whose names without sections are like another, the most similar first."""
    names = {key.rpartition(".")[2]: key for key in reversed(keys)}
    return [names[near] for near in difflib.get_close_matches(last, names, n=3, cutoff=_NEAR)]


__all__ = ["RENAMED", "build", "check", "parse_yaml", "set_override"]
