# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Whether layers are ordinary ones, so that their weights may be read instead of the layers being called."""

from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers.utils import is_torchdynamo_exporting


def has_plain_weights(module: nn.Module) -> bool:
    """Whether a layer computes with the weight that it shows: not wrapped, quantised, sharded or off-loaded."""
    weight: Any = module.weight
    recorded = type(weight) is FakeTensor and is_torchdynamo_exporting()
    return (
        type(module) in (nn.Linear, nn.LayerNorm)
        and (type(weight) in (nn.Parameter, torch.Tensor) or recorded)
        and weight.is_floating_point()
        and not is_hooked(module)
    )


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of a module does more than its `forward`: it has hooks, or another `forward` put in its place."""
    return bool(module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module))


__all__ = ["has_plain_weights", "is_hooked"]
