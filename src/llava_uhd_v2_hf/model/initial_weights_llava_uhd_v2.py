# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Initial weights of the projectors, those of the released code."""

import math
from collections.abc import Iterable

from torch import nn
from transformers import initialization as init


def reset_attention(query: nn.Linear, key: nn.Linear, value: nn.Linear):
    """Initialises the input projections of an attention as `nn.MultiheadAttention` does: as one matrix (3d, d)."""
    bound = math.sqrt(6 / (query.in_features + sum(layer.out_features for layer in (query, key, value))))
    for layer in (query, key, value):
        init.uniform_(layer.weight, -bound, bound)
        init.zeros_(layer.bias)


def reset_projection(projection: nn.Linear):
    """Initialises a last projection, without bias, from a normal distribution that keeps the scale (released code)."""
    init.normal_(projection.weight, std=projection.in_features**-0.5)


def reset_linear(layers: Iterable[nn.Linear]):
    """Initialises linear layers as PyTorch does by default."""
    for layer in layers:
        bound = 1 / math.sqrt(layer.in_features)
        init.uniform_(layer.weight, -bound, bound)
        init.uniform_(layer.bias, -bound, bound)


def reset_norms(module: nn.Module):
    """Initialises all layer norms of a module."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            init.ones_(part.weight)
            init.zeros_(part.bias)


__all__ = ["reset_attention", "reset_linear", "reset_norms", "reset_projection"]
