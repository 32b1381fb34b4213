# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What harnesses say about the generation of an answer -> options of `generate`."""

from collections.abc import Mapping, Sequence
from typing import Any

from .values import FLAG, Kind, integer, number, read_value


# of the released evaluation: greedy, with more beams in some tasks
DEFAULTS = {"max_new_tokens": 128, "num_beams": 1}
SAMPLING = ("temperature", "top_p", "top_k")


def _to_texts(value: Any) -> list[str]:
    if not all(isinstance(text, str) for text in value):
        raise TypeError
    return list(value)


UNTIL = Kind("a text or a list of texts", _to_texts)
KINDS = {
    "max_new_tokens": integer(1),
    "num_beams": integer(1),
    "temperature": number("a number of at least 0", lambda value: value >= 0),
    "top_p": number("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "top_k": integer(0),
    "do_sample": FLAG,
    "length_penalty": number("a number"),
    "repetition_penalty": number("a number above 0", lambda value: value > 0),
}
# how LLaVA cuts images; ours are cut by the image processor
IGNORED = {"image_aspect_ratio"}


def read_generation(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Options of `generate`, and the texts at which an answer ends.

    Without `do_sample`, a temperature above 0 samples. Greedy generation drops temperature, `top_p` and `top_k`.

    Args:
        settings: of a task, where values may be texts; what is None or left open is as in the released evaluation.

    Raises:
        ValueError: if there is a setting that isn't known here, or a value that isn't valid.
    """
    settings = {name: value for name, value in settings.items() if name not in IGNORED}
    until = settings.pop("until", None)
    if unknown := sorted(name for name in settings.keys() - KINDS.keys() if settings[name] is not None):
        raise ValueError(
            f"The generation setting `{unknown[0]}`={settings[unknown[0]]!r} isn't known; there are until, "
            f"{', '.join(sorted(KINDS))}."
        )
    read = {name: read_value(name, settings[name], kind) for name, kind in KINDS.items() if name in settings}
    given = {name: value for name, value in read.items() if value is not None}
    warm = given.get("temperature", 1 if given.get("do_sample") else 0) > 0
    options = DEFAULTS | given | {"do_sample": given.get("do_sample", warm) and warm}
    if not options["do_sample"]:
        options = {name: value for name, value in options.items() if name not in SAMPLING}
    return options, [until] if isinstance(until, str) else read_value("until", until, UNTIL) or []


def cut_answer(answer: str, until: Sequence[str]) -> str:
    """An answer up to the first of some texts, without space around it."""
    for end in filter(None, until):
        answer = answer.partition(end)[0]
    return answer.strip()


__all__ = ["cut_answer", "read_generation"]
