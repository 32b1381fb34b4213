# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Bilinear up-sampling, the baseline of the paper's table 3."""

import torch
from torch import nn

from .configuration_llava_uhd_v2 import LlavaUhdV2ProjectorConfig
from .operators_llava_uhd_v2 import Level, map_sources
from .resizing_llava_uhd_v2 import full_precision, resize, resizing_weights


class LlavaUhdV2BilinearUpsampler(nn.Module):
    """The baseline of the paper's table 3: every level is the ViT's map resized bilinearly. It has no weights."""

    def __init__(self, config: LlavaUhdV2ProjectorConfig, channels: int):
        super().__init__()
        self.steps = max(config.levels)

    def reset_parameters(self):
        """Does nothing: there are none."""

    def forward(self, features: torch.Tensor, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Resizes a feature map.

        Args:
            features: (v, c, h, w), level 0.
            pixels: (v, 3, patch * h, patch * w); not used.

        Returns:
            Every level from 0 to the highest: (v, c, 2^l h, 2^l w).
        """
        height, width = features.shape[-2:]
        sizes = [(height << level, width << level) for level in range(1, self.steps + 1)]
        scaled = [resize(full_precision(features), size, "bilinear").to(features.dtype) for size in sizes]
        return [features, *scaled]

    def linear_levels(self, features: torch.Tensor, pixels: torch.Tensor) -> list[Level]:
        """Returns every level as an operator and its sources.

        Args:
            features: (v, c, h, w), level 0.
            pixels: (v, 3, patch * h, patch * w); not used.
        """
        sources = map_sources(features)
        levels = [Level(sources)]
        for level in range(1, self.steps + 1):
            down, across = (
                resizing_weights(length, length << level, "bilinear", sources.dtype, sources.device)
                for length in features.shape[-2:]
            )
            levels.append(Level(sources, axes=(down, across)))
        return levels


__all__ = ["LlavaUhdV2BilinearUpsampler"]
