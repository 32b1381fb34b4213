# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Whether layers are ordinary ones, so that their weights may be read instead of the layers being called."""

from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers.utils import is_torchdynamo_exporting


def is_plain_tensor(tensor: torch.Tensor) -> bool:
    """Whether a weight is an ordinary one: not quantised, sharded or off-loaded."""
    recorded = type(tensor) is FakeTensor and is_torchdynamo_exporting()
    return (type(tensor) in (nn.Parameter, torch.Tensor) or recorded) and tensor.is_floating_point()


def has_plain_weights(module: nn.Module) -> bool:
    """Whether a layer computes with the weight that it shows: not wrapped, quantised, sharded or off-loaded."""
    weight: Any = module.weight
    return type(module) in (nn.Linear, nn.LayerNorm) and is_plain_tensor(weight) and not is_hooked(module)


def has_plain_layers(module: nn.Module) -> bool:
    """Whether all of a module's layers are PyTorch's or its author's, with ordinary weights, and called as they are.

    False where a library has wrapped, replaced or hooked one, such as LoRA.
    """
    homes = {cls.__module__ for cls in type(module).__mro__}  # an author's class may derive from one of ours
    return all(
        (type(part).__module__.startswith("torch.nn.") or type(part).__module__ in homes)
        and not is_hooked(part)
        and all(map(is_plain_tensor, part.parameters(recurse=False)))
        for part in module.modules()
    )


def call_linear(layer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """Calls a linear layer; what a library puts in the place of PyTorch's may not read strides.

    Args:
        layer: from c to d features; PyTorch's, or what a library such as vLLM or PEFT has put in its place.
        states: (n, ..., c), with any strides.

    Returns:
        (n, ..., d).
    """
    return layer(states if type(layer) is nn.Linear else states.contiguous())


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of a module does more than its `forward`: it has hooks, or another `forward` put in its place."""
    return bool(module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module))


__all__ = ["call_linear", "has_plain_layers", "has_plain_weights", "is_hooked"]
