# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Reading JSON objects from files that anyone may have written."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn


MAX_BYTES = 2**28  # of a JSON file; the largest tokenizers have 2**25


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object whose numbers are all finite.

    Raises:
        ValueError: if the file is not there, too large, or not such an object.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path}.")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"Expected at most {MAX_BYTES} bytes of JSON in {path}, found {size}.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse, parse_float=_read_number)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is truncated or not JSON ({reason}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, but holds a {type(values).__name__}.")
    return values


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _read_number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


__all__ = ["MAX_BYTES", "read_json"]
