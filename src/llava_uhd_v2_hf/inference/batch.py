# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Chats -> answers, in one batch."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from ..model.processing_llava_uhd_v2 import LlavaUhdV2Processor


def answer_chats(
    model: PreTrainedModel,
    processor: LlavaUhdV2Processor,
    chats: Sequence[Sequence[Mapping[str, Any]]],
    *,
    processor_kwargs: Mapping[str, Any],
    **generation: Any,
) -> list[str]:
    """What the model says next in each chat, generated in one batch with padding on the left.

    Args:
        model: in evaluation mode.
        processor: with the chat template.
        chats: messages of `role` and `content`, ending with the user's.
        processor_kwargs: of the processor's call: `max_slices`, or `images` where the messages only mark their places.
        generation: of `generate`: `max_new_tokens`, `do_sample`, `num_beams`, ...
    """
    inputs = processor.apply_chat_template(
        chats,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left", **processor_kwargs},
    ).to(next(model.parameters()).device)
    tokens = model.generate(**inputs, use_cache=True, **generation)
    return processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


__all__ = ["answer_chats"]
