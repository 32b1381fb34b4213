# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The result of a training: a folder that loads when it is complete, and not before."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME

from ..model.processing_llava_uhd_v2 import LlavaUhdV2Processor
from ..utils.atomic import replaced_files


def stored_dtype(checkpoint: str) -> torch.dtype:
    """The dtype of a checkpoint's weights."""
    return AutoConfig.from_pretrained(checkpoint).dtype or torch.float32


def write_model(
    folder: Path,
    model: PreTrainedModel,
    processor: LlavaUhdV2Processor,
    dtype: torch.dtype,
    state: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Writes a complete checkpoint: configurations, weights, processor and chat template.

    Args:
        folder: see [`replaced_files`].
        model: which is cast to `dtype`, unless its weights are given.
        processor: the model's.
        dtype: of the weights.
        state: the weights, gathered from all processes, where the model is sharded.
    """
    if state is None:
        model.to(dtype)
    else:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    with replaced_files(folder, CONFIG_NAME) as staged:
        model.save_pretrained(staged, state_dict=state)
        model.config.dtype = dtype
        model.config.save_pretrained(staged)
        processor.save_pretrained(staged)


__all__ = ["stored_dtype", "write_model"]
