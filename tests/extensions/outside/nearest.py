# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A linear up-sampler from outside the package: nearest neighbours, which the reordered projector computes, too."""

import torch
from torch import nn

from llava_uhd_v2_hf.model.configuration_llava_uhd_v2 import LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.model.operators_llava_uhd_v2 import Level, map_sources
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import UPSAMPLERS


class NearestUpsampler(nn.Module):
    """Repeats every feature of the ViT's map."""

    def __init__(self, config: LlavaUhdV2ProjectorConfig, channels: int):
        super().__init__()
        self.steps = max(config.levels)

    def reset_parameters(self):
        pass

    def forward(self, features: torch.Tensor, pixels: torch.Tensor) -> list[torch.Tensor]:
        scales = [1 << level for level in range(self.steps + 1)]
        return [features.repeat_interleave(scale, -1).repeat_interleave(scale, -2) for scale in scales]

    def linear_levels(self, features: torch.Tensor, pixels: torch.Tensor) -> list[Level]:
        sources = map_sources(features)
        levels = [Level(sources)]
        for level in range(1, self.steps + 1):
            identities = [torch.eye(length).to(sources) for length in features.shape[-2:]]
            down, across = (identity.repeat_interleave(1 << level, 0) for identity in identities)
            levels.append(Level(sources, axes=(down, across)))
        return levels


UPSAMPLERS["repeated"] = NearestUpsampler
