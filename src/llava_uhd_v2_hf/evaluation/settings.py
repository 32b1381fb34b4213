# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation lets one choose."""

from dataclasses import dataclass

from .image_rules import PRE_RESIZE_RULES


DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation lets one choose; all of it is recorded.

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
        ValueError: if a value is none of those.
    """

    checkpoint: str
    dtype: str = "auto"
    device: str | None = None
    batch_size: int = 1
    max_slices: int | None = None
    pre_resize: str | None = None
    ocr_tokens: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")
        for name in ("batch_size", "max_slices"):
            value = getattr(self, name)
            if (name, value) != ("max_slices", None) and (type(value) is not int or value < 1):
                raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")
        if self.pre_resize not in (None, *PRE_RESIZE_RULES):
            raise ValueError(f"`pre_resize` must be one of {', '.join(PRE_RESIZE_RULES)}, got {self.pre_resize!r}.")
        if type(self.ocr_tokens) is not bool:
            raise ValueError(f"`ocr_tokens` must be True or False, got {self.ocr_tokens!r}.")


__all__ = ["EvaluationSettings"]
