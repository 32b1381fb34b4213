# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What harnesses say about the generation of an answer -> options of `generate`."""

from collections.abc import Mapping, Sequence
from typing import Any


# of the released evaluation: greedy, with more beams in some tasks
DEFAULTS = {"max_new_tokens": 128, "num_beams": 1}
SAMPLING = ("temperature", "top_p", "top_k")
KNOWN = {*DEFAULTS, *SAMPLING, "do_sample", "length_penalty", "repetition_penalty"}
# how LLaVA cuts images; ours are cut by the image processor
IGNORED = {"image_aspect_ratio"}


def read_generation(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Options of `generate`, and the texts at which an answer ends.

    Without `do_sample`, a temperature above 0 samples. Greedy generation drops temperature, `top_p` and `top_k`.

    Args:
        settings: of a task; what it leaves open is as in the released evaluation.

    Raises:
        ValueError: if there is a setting that isn't known here.
    """
    settings = {name: value for name, value in settings.items() if value is not None and name not in IGNORED}
    until = settings.pop("until", [])
    if unknown := sorted(settings.keys() - KNOWN):
        raise ValueError(
            f"The generation setting `{unknown[0]}`={settings[unknown[0]]!r} isn't known; there are until, "
            f"{', '.join(sorted(KNOWN))}."
        )
    warm = settings.get("temperature", 1 if settings.get("do_sample") else 0) > 0
    options = DEFAULTS | settings | {"do_sample": settings.get("do_sample", warm) and warm}
    if not options["do_sample"]:
        options = {name: value for name, value in options.items() if name not in SAMPLING}
    return options, [until] if isinstance(until, str) else list(until)


def cut_answer(answer: str, until: Sequence[str]) -> str:
    """An answer up to the first of some texts, without space around it."""
    for end in filter(None, until):
        answer = answer.partition(end)[0]
    return answer.strip()


__all__ = ["cut_answer", "read_generation"]
