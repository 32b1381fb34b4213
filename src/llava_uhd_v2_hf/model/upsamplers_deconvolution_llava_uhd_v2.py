# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Up-sampling by transposed convolutions, a baseline of the paper's table 3."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .configuration_llava_uhd_v2 import LlavaUhdV2ProjectorConfig


class LlavaUhdV2DeconvolutionUpsampler(nn.Module):
    """Makes levels 1 and 2 from level 0 by transposed convolutions, without the pixels' guidance (paper table 3).

    The paper says no more than "deconvolution network". The layers are those of ViTDet's simple feature pyramid
    (arXiv:2203.16527), at the tower's width: one transposed convolution for level 1; two with a layer norm and a GELU
    between them for level 2. It has no pre-training, and is trained with the projector.

    Attributes:
        highest_level: of the pyramid.
    """

    highest_level = 2
    linear_levels = None  # the GELU is not linear

    def __init__(self, config: LlavaUhdV2ProjectorConfig, channels: int):
        super().__init__()
        self.steps = max(config.levels)
        self.level_1 = doubling_layer(channels) if 1 in config.levels else None
        self.level_2 = nn.ModuleList()
        if self.steps == 2:
            norm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
            self.level_2.extend([doubling_layer(channels), norm, doubling_layer(channels)])

    def reset_parameters(self):
        """Initialises the layers as PyTorch does by default."""
        for layer in self.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                init.uniform_(layer.weight, -bound, bound)
                init.uniform_(layer.bias, -bound, bound)
            elif isinstance(layer, nn.LayerNorm):
                init.ones_(layer.weight)
                init.zeros_(layer.bias)

    def forward(self, features: torch.Tensor, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Up-samples a feature map.

        Args:
            features: (v, c, h, w), level 0.
            pixels: (v, 3, patch * h, patch * w); not used.

        Returns:
            Every level from 0 to the highest: (v, c, 2^l h, 2^l w). Where level 1 is not read, it is the hidden map of
            level 2.
        """
        own = [] if self.level_1 is None else [self.level_1(features)]
        if self.steps < 2:
            return [features, *own]
        first, norm, second = self.level_2
        hidden = F.gelu(norm(first(features).movedim(1, -1))).movedim(-1, 1)
        return [features, *(own or [hidden]), second(hidden)]


def doubling_layer(channels: int) -> nn.ConvTranspose2d:
    """Makes the layer that doubles height and width."""
    return nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)


__all__ = ["LlavaUhdV2DeconvolutionUpsampler"]
