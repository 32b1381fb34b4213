# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What pydantic finds wrong with a request -> the API's error: where, what was expected, what was found."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from .errors import ApiError


LONGEST_FOUND = 60  # characters of a wrong value that an error shows
PART_TYPES = "'text' or 'image_url'"
# types of errors, pydantic's and the schema's -> what was expected, filled in from the error's context
EXPECTED = {
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than_equal": "a number of at least {ge}",
    "int_type": "an integer",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "string_pattern_mismatch": "text without NUL characters",
    "string_too_long": "a string of at most {max_length} characters",
    "string_too_short": "a string that is not empty",
    "string_type": "a string",
    "text_or_list": "a string or a list of {entries}",
    "too_long": "a list of at most {max_length} entries",
    "too_short": "a list that is not empty",
    "union_tag_invalid": PART_TYPES,
}


def refuse(error: ValidationError) -> ApiError:
    """Returns the refusal of a request, for the first thing that is wrong with it."""
    first = error.errors(include_url=False)[0]
    kind, place, found, context = first["type"], _describe_place(first["loc"]), first["input"], first.get("ctx", {})
    if kind == "json_invalid":
        return ApiError(400, f"Invalid JSON in the request's body: {context['error']}."[:1000], code="invalid_json")
    if kind == "unsupported":
        name = context["name"]
        return _refuse_key(f"{place}.{name}".removeprefix(".")[:200], found[name], context["neutral"])
    if kind.startswith("union_tag"):
        place, found = f"{place}.type", found.get("type")
    subject = f"`{place}`" if place else "The request's body"
    if kind == "missing":
        message = f"{subject} is missing."
    elif kind == "union_tag_not_found":
        message = f"{subject} is missing; expected {PART_TYPES}."
    elif kind in EXPECTED:
        message = f"{subject}: expected {EXPECTED[kind].format(**context)}, got {_describe_value(found)}."
    else:
        message = f"{subject}: {first['msg']}."
    return ApiError(400, message[:1000], param=place or None, code="invalid_value")


def _refuse_key(place: str, found: Any, neutral: Sequence[Any]) -> ApiError:
    """Returns the refusal of a key that is not a field, for a value that is not one of the neutral ones."""
    if neutral:
        values = " or ".join(map(json.dumps, neutral))
        message = f"`{place}`: {_describe_value(found)} is not supported here, only {values}; leave it out."
    else:
        message = f"`{place}` is not supported here; leave it out."
    return ApiError(400, message[:1000], param=place, code="unsupported_parameter")


def _describe_value(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of length {len(value)}"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_FOUND else f"{text[:LONGEST_FOUND]}..."


def _describe_place(location: Sequence[int | str]) -> str:
    """("messages", 0, "content", 1, "image_url", "image_url", "url") -> messages[0].content[1].image_url.url"""
    place = ""
    for index, step in enumerate(location):
        if isinstance(step, int):
            place += f"[{step}]"
        elif index < 2 or location[index - 2] != "content":  # else the kind of a part
            place += f".{step}" if place else step
    return place[:200]


__all__ = ["refuse"]
