# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a recipe of the stages `pretrain` and `sft` says."""

from dataclasses import dataclass, field
from typing import Literal

from transformers import TrainingArguments

from ....data.mixtures import ConversationData


@dataclass
class PartSettings:
    """How one part of the model is trained.

    Args:
        train: whether it is; None for as the stage does, see [`STAGES`].
        learning_rate: the largest one; None for `training.learning_rate`.
        weight_decay: None for `training.weight_decay`.
    """

    train: bool | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None


@dataclass
class FinetuneParts:
    """The parts of the model; every parameter belongs to one of them.

    Args:
        vision_tower: up to the layer that is read; what lies behind is never trained.
        upsampler: visual detail injection, without its fix-ups.
        fixups: the 1x1 fix-ups of the up-sampler.
        window_attention: hierarchical window attention, without its position table.
        positions: the position table of the window attention.
        language_model: with its embeddings and its head.
    """

    vision_tower: PartSettings = field(default_factory=PartSettings)
    upsampler: PartSettings = field(default_factory=PartSettings)
    fixups: PartSettings = field(default_factory=PartSettings)
    window_attention: PartSettings = field(default_factory=PartSettings)
    positions: PartSettings = field(default_factory=PartSettings)
    language_model: PartSettings = field(default_factory=PartSettings)


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


@dataclass
class EvaluationSettings:
    """Answers to held-out questions while it trains; how often is `training.eval_strategy` and `training.eval_steps`.

    The questions are the turns before the last; the batch is `training.per_device_eval_batch_size`.

    Args:
        data: the held-out samples.
        max_new_tokens: longest answer, in tokens.
        samples: how many of the first samples; None for all.

    Raises:
        ValueError: if a number is less than 1, or the data is to be streamed.
    """

    data: ConversationData = field(default_factory=ConversationData)
    max_new_tokens: int = 64
    samples: int | None = None

    def __post_init__(self):
        for name in ("max_new_tokens", "samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`evaluation.{name}` must be at least 1, got {value}.")
        if self.data.streaming:
            raise ValueError("`evaluation.data.streaming`=true can't be used; held-out samples are read by number.")


@dataclass
class FinetuneRecipe:
    """A training of the stage `pretrain` or `sft`.

    Args:
        model: folder or Hub id of the checkpoint that is trained, or folder of an adapter to go on from.
        batch_size: samples a step, of all processes together.
        chat_template: `"plain"` for captions behind their image (released pre-training of the Vicuna models); None for
            the checkpoint's own. The checkpoint that is written has its own either way.
        attn_implementation: of tower and text model, such as `"flash_attention_2"`; None for transformers' choice.
        upsampler_dropout: whether the dropouts of a frozen up-sampler act, as in the released training.
        parts: what is trained.
        lora: None for training all weights of these parts.
        quantization: needs `lora`.
        data: the samples.
        evaluation: None for none.
        training: transformers' `TrainingArguments`. `per_device_train_batch_size` is the largest number of samples
            that a process takes at once; the steps of gradient accumulation follow from it. With
            `train_sampling_strategy: group_by_length`, the samples of a step are of about one length, see
            [`ModalityLengthSampler`].

    Raises:
        ValueError: if `batch_size` is less than 1, or settings contradict each other.
    """

    model: str = ""
    batch_size: int = 128
    chat_template: Literal["plain"] | None = None
    attn_implementation: str | None = None
    upsampler_dropout: bool = False
    parts: FinetuneParts = field(default_factory=FinetuneParts)
    lora: LoraSettings | None = None
    quantization: QuantizationSettings | None = None
    data: ConversationData = field(default_factory=ConversationData)
    evaluation: EvaluationSettings | None = None
    training: TrainingArguments = field(default_factory=TrainingArguments)

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}.")
        if self.quantization is not None and self.lora is None:
            raise ValueError("`quantization` needs `lora`: quantised weights can't be trained themselves.")
        if self.data.streaming and self.training.max_steps < 1:
            raise ValueError(
                "`data.streaming`=true needs `training.max_steps`: how long a stream is, is not known before its end."
            )
        if self.data.streaming and self.training.train_sampling_strategy == "group_by_length":
            raise ValueError(
                "`data.streaming`=true can't be grouped by length; set `training.train_sampling_strategy`=random."
            )
        if self.training.eval_strategy == "no" and self.evaluation is not None:
            raise ValueError("The section `evaluation` needs `training.eval_strategy`, steps for example.")
        if self.training.eval_strategy != "no" and self.evaluation is None:
            raise ValueError(
                f"`training.eval_strategy`='{self.training.eval_strategy.value}' needs the section `evaluation`."
            )


__all__ = [
    "EvaluationSettings",
    "FinetuneParts",
    "FinetuneRecipe",
    "LoraSettings",
    "PartSettings",
    "QuantizationSettings",
]
