# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Limits the backward pass of the vision encoder to what is trained and what follows it.

With activation checkpointing, transformers and PEFT hook the embeddings of every sub-model, so that their outputs
require gradients: reentrant checkpointing then reaches weights behind frozen layers, but a frozen tower is
differentiated too. Here gradients begin at the first trained layer instead.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def needs_gradients(modules: Iterable[nn.Module], *inputs: torch.Tensor) -> bool:
    """Whether a parameter of the modules or one of their inputs requires a gradient.

    Args:
        modules: that compute with the inputs.
        inputs: each (v, ...).
    """
    tensors = [*inputs, *(parameter for module in modules for parameter in module.parameters())]
    return any(tensor.requires_grad for tensor in tensors)


def checkpoints_reentrantly(module: nn.Module) -> bool:
    """Whether a call of a module is checkpointed in the reentrant form.

    Its outputs require gradients only if an input does, and its backward pass differentiates every such input.
    """
    options = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
    reentrant = options and options.get("use_reentrant", True)  # PyTorch's default
    return bool(reentrant and module.training and getattr(module, "gradient_checkpointing", False))


def call_layer(layer: nn.Module, state: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Calls a layer; under reentrant checkpointing, gradients of hidden states begin at the first trained one.

    Args:
        layer: maps hidden states to hidden states.
        state: (v, n, c).
        kwargs: passed to the layer.

    Returns:
        (v, n, c): the layer's output.
    """
    if checkpoints_reentrantly(layer) and torch.is_grad_enabled() and not state.requires_grad:
        if not needs_gradients([layer]):
            with torch.no_grad():  # a checkpoint warns that there is no gradient
                return layer(state, **kwargs)
        state = state.detach().requires_grad_()
    return layer(state, **kwargs)


__all__ = ["call_layer", "checkpoints_reentrantly", "needs_gradients"]
