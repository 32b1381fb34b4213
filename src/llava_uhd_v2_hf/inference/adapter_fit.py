# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Errors of weights that don't fit, of adapters and of checkpoints, in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import AutoConfig, AutoTokenizer

from .checkpoints import base_of, is_adapter


_MISMATCH = re.compile("size mismatch|mismatched_sizes")  # PEFT's and transformers'


@contextmanager
def weights_that_fit(model: str) -> Iterator[None]:
    """Turns PyTorch's list of tensors that don't fit into one line, while the weights of a model are loaded.

    Args:
        model: folder or Hub id of a checkpoint or an adapter.

    Raises:
        ValueError: if a tensor has another shape than in the model, or the tokenizer of an adapter has tokens that its
            checkpoint has no embedding of.
    """
    adapter = is_adapter(model)
    if adapter:
        _check_vocabulary(model)
    try:
        yield
    except RuntimeError as error:
        if not _MISMATCH.search(str(error)):
            raise
        if not adapter:
            raise ValueError(f"The weights of {model} have other shapes than its config.json says.") from error
        raise ValueError(
            f"The weights of the adapter {model} don't fit its checkpoint {base_of(model)}; name the checkpoint that "
            "it was trained from as `base_model_name_or_path` in adapter_config.json. If its vocabulary was resized, "
            "resize the checkpoint's too (`resize_token_embeddings`)."
        ) from error


def _check_vocabulary(adapter: str) -> None:
    base = base_of(adapter)
    tokens, rows = _count_tokens(adapter), AutoConfig.from_pretrained(base).get_text_config().vocab_size
    if tokens > rows and tokens > _count_tokens(base):
        raise ValueError(
            f"The tokenizer of the adapter {adapter} has {tokens} tokens, but its checkpoint {base} has embeddings "
            f"for {rows}: tokens were added before the training. Save the checkpoint with `resize_token_embeddings("
            f"{tokens})` and its new embeddings, and name that as `base_model_name_or_path` in adapter_config.json."
        )


def _count_tokens(model: str) -> int:
    return len(AutoTokenizer.from_pretrained(model))


__all__ = ["weights_that_fit"]
