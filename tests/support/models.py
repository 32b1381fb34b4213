# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Models with fixed weights."""

import torch
from torch import nn


def set_fixed_weights(model: nn.Module) -> None:
    """Fills every parameter from its position alone: no random generator, so recorded numbers outlive torch versions.

    Matrices get a standard deviation of 1 / sqrt(fan-in), so that activations keep their scale; gains lie around one.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            index = torch.arange(parameter.numel(), dtype=torch.float64) + len(name)
            values = ((index * index * 0.6180339887498949) % 1 - 0.5).view(parameter.shape)  # in [-0.5, 0.5)
            if parameter.ndim > 1:
                values *= (12 / parameter[0].numel()) ** 0.5
            elif parameter.ndim == 0 or name.endswith("weight"):
                values = 1 + values / 4
            parameter.copy_(values)
