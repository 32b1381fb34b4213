# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Recipes of fine-tuning: the family of the stages `pretrain` and `sft`."""

from dataclasses import dataclass, field
from typing import Literal

from transformers import TrainingArguments

from ....data.mixtures import ConversationData
from ...adapter_settings import LoraSettings, QuantizationSettings
from ...parameter_groups import Parts


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
            raise ValueError("Evaluation data must support random access; set `evaluation.data.streaming`=false.")


@dataclass
class FinetuneRecipe:
    """Settings of a fine-tuning.

    Args:
        model: folder or Hub id of the checkpoint that is trained, or folder of an adapter to train further.
        batch_size: samples a step, of all processes together.
        chat_template: `"plain"` for captions behind their image (released pre-training of the Vicuna models); None for
            the checkpoint's own. The checkpoint that is written has its own either way.
        attn_implementation: of tower and text model, such as `"flash_attention_2"`; None for transformers' choice.
        upsampler_dropout: whether dropout stays active in a frozen up-sampler, as in the released training.
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
    parts: Parts = field(default_factory=Parts)
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


__all__ = ["EvaluationSettings", "FinetuneRecipe"]
