# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation lets one choose."""

from dataclasses import dataclass, fields
from typing import Any

import torch

from .image_rules import PRE_RESIZE_RULES
from .values import FLAG, Kind, integer, one_of, read_value


DTYPES = ("auto", "float32", "bfloat16", "float16")


def _to_device(value: Any) -> str:
    try:
        return str(torch.device(int(value) if str(value).isdecimal() else value))
    except RuntimeError as error:  # torch's, for a name that it doesn't know
        raise ValueError from error


KINDS = {
    "dtype": one_of(DTYPES),
    "device": Kind("a device as torch names it (cpu, cuda, cuda:0)", _to_device),
    "batch_size": integer(1),
    "max_slices": integer(1),
    "pre_resize": one_of(PRE_RESIZE_RULES),
    "ocr_tokens": FLAG,
}


@dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation lets one choose; all of it is recorded.

    Values may be texts, as harnesses have them: "8", "true". None, also as a text, is the default.

    Args:
        checkpoint: folder or Hub id of a checkpoint or an adapter.
        dtype: of the weights: "auto" (as they are saved), "float32", "bfloat16" or "float16".
        device: as torch names it; None for the accelerator if there is one.
        batch_size: questions that are answered at once.
        max_slices: of an image; None for the checkpoint's own (9 in converted ones).
        pre_resize: how images are resized before they are sliced: "released-permute" or "released-sequential", as
            the evaluation code of the Vicuna-7B or of the other released checkpoints does it; None leaves them alone.
        ocr_tokens: whether the prompts name the words that an OCR system has read, which only some tasks come with.

    Raises:
        ValueError: if a value is not valid.
    """

    checkpoint: str
    dtype: str = "auto"
    device: str | None = None
    batch_size: int = 1
    max_slices: int | None = None
    pre_resize: str | None = None
    ocr_tokens: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name in KINDS:
                value = read_value(field.name, getattr(self, field.name), KINDS[field.name])
                object.__setattr__(self, field.name, field.default if value is None else value)


__all__ = ["EvaluationSettings"]
