# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A question of a benchmark, whatever harness it comes from, and the words of an OCR system in its prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


OCR_LINE = "Reference OCR token: "


@dataclass
class Question:
    """A question of a benchmark.

    Attributes:
        task: the name of the benchmark.
        messages: of `role` and `content`, a list of text and image entries; the last one is the user's.
        generation: what the harness says about the generation, see [`read_generation`].
        ocr_tokens: words that an OCR system has read in the images; None if the task has none.
    """

    task: str
    messages: list[dict[str, Any]]
    generation: Mapping[str, Any]
    ocr_tokens: Sequence[str] | None = None


def add_ocr_line(prompt: str, tokens: Sequence[str]) -> str:
    """A prompt with a line that names the words, before its last line, which says how to answer, if it has several.

    Args:
        prompt: of one line or more.
        tokens: the words.
    """
    line = OCR_LINE + ", ".join(tokens)
    question, newline, form = prompt.rpartition("\n")
    return f"{question}\n{line}\n{form}" if newline else f"{prompt}\n{line}"


def with_ocr_tokens(question: Question) -> list[dict[str, Any]]:
    """The messages, in the last text of which the words are named.

    Raises:
        ValueError: if the task has no such words.
    """
    if has_ocr_line(question.messages):  # the task, or its builder, has done it
        return question.messages
    if question.ocr_tokens is None:
        raise ValueError(f"`ocr_tokens` is on, but the task {question.task} has no `ocr_tokens`; turn it off.")
    *before, last = question.messages
    content = list(last["content"])
    index = max(index for index, entry in enumerate(content) if entry["type"] == "text")
    content[index] = {"type": "text", "text": add_ocr_line(content[index]["text"], question.ocr_tokens)}
    return [*before, {**last, "content": content}]


def has_ocr_line(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a task has put the words there itself."""
    return any(OCR_LINE.strip() in entry.get("text", "") for message in messages for entry in message["content"])


def without_ocr_tokens(question: Question) -> list[dict[str, Any]]:
    """The messages.

    Raises:
        ValueError: if the task names the words in its prompt.
    """
    if has_ocr_line(question.messages):
        raise ValueError(
            f"The task {question.task} names OCR words in its prompts, but `ocr_tokens` is off: set it to True, or "
            "the task's own setting (`ocr` in lmms-eval) to false."
        )
    return question.messages


__all__ = ["Question", "add_ocr_line", "with_ocr_tokens", "without_ocr_tokens"]
