# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Settings of low-rank adapters (LoRA) and of 4-bit weights under them (QLoRA)."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class LoraSettings:
    """Low-rank adapters, by PEFT. A part that has adapters is trained through them alone.

    Args:
        r: rank.
        alpha: scale of the adapters, times `r`.
        dropout: before the adapters.
        targets: names of linear layers of the text model, or a regular expression for whole names of modules; None for
            every linear layer of the text model but its head.

    Raises:
        ValueError: if a number is out of range.
    """

    r: int = 128
    alpha: int = 256
    dropout: float = 0.05
    targets: list[str] | str | None = None

    def __post_init__(self):
        if self.r < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                "`lora.r` and `lora.alpha` must be at least 1 and `lora.dropout` in [0, 1), got "
                f"{self.r}, {self.alpha} and {self.dropout}."
            )


@dataclass
class QuantizationSettings:
    """4-bit weights of the text model, by bitsandbytes (QLoRA). Vision tower, projector and head stay as they are.

    Args:
        type: data type of the weights.
        double: whether the quantisation constants are quantised too.
    """

    type: Literal["nf4", "fp4"] = "nf4"
    double: bool = True


__all__ = ["LoraSettings", "QuantizationSettings"]
