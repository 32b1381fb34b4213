# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Values of settings as harnesses give them: of their type, as text (YAML, JSON, command lines), or None."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


NONE_TEXTS = ("", "none", "null")


@dataclass(frozen=True)
class Kind:
    """A kind of values.

    Args:
        expected: as an error says it.
        convert: returns the value of a setting; raises TypeError, ValueError or OverflowError for what is not valid.
    """

    expected: str
    convert: Callable[[Any], Any]


def read_value(name: str, value: Any, kind: Kind) -> Any:
    """Converts the value of a setting; None, and texts that say None, are None.

    Args:
        name: of the setting.
        value: as the harness has it.
        kind: of the setting.

    Raises:
        ValueError: naming the setting, what was expected and what was found.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in NONE_TEXTS):
        return None
    try:
        return kind.convert(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"`{name}` must be {kind.expected}, got {value!r}.") from None


def number(expected: str, accepts: Callable[[float], bool] = lambda value: True) -> Kind:
    """Returns the kind of finite numbers that pass a check."""

    def convert(value: Any) -> float:
        result = math.nan if isinstance(value, bool) else float(value)
        if not (math.isfinite(result) and accepts(result)):
            raise ValueError
        return result

    return Kind(expected, convert)


def integer(least: int) -> Kind:
    """Returns the kind of integers from `least` on; 8.0 and "8" are 8."""
    whole = number("", lambda value: value.is_integer() and value >= least)
    return Kind(f"an integer of at least {least}", lambda value: int(whole.convert(value)))


def one_of(choices: Sequence[str]) -> Kind:
    """Returns the kind of a few names."""
    return Kind(f"one of {', '.join(choices)}", lambda value: choices[choices.index(value)])


def _to_bool(value: Any) -> bool:
    return bool(("false", "true", "0", "1").index(str(value).strip().lower()) % 2)


FLAG = Kind("True or False", _to_bool)

__all__ = ["FLAG", "Kind", "integer", "number", "one_of", "read_value"]
