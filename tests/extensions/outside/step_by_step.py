# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""An up-sampler from outside the package: transposed convolutions, with an activation, so not linear."""

import torch
import torch.nn.functional as F
from torch import nn

from llava_uhd_v2_hf.model.configuration_llava_uhd_v2 import LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import UPSAMPLERS


class StepByStepUpsampler(nn.Module):
    """Doubles the resolution of the level below with a transposed convolution and GELU."""

    linear_levels = None

    def __init__(self, config: LlavaUhdV2ProjectorConfig, channels: int):
        super().__init__()
        self.steps = max(config.levels)
        self.stages = nn.ModuleList(nn.ConvTranspose2d(channels, channels, 2, stride=2) for _ in range(self.steps))

    def reset_parameters(self):
        for stage in self.stages:
            stage.reset_parameters()

    def forward(self, features: torch.Tensor, pixels: torch.Tensor) -> list[torch.Tensor]:
        levels = [features]
        for stage in self.stages:
            levels.append(F.gelu(stage(levels[-1])))
        return levels


UPSAMPLERS["step by step"] = StepByStepUpsampler
