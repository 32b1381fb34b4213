# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The Hiwin projector: up-sampling into the inverse semantic pyramid, then hierarchical window attention."""

from typing import cast

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_llava_uhd_v2 import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from .fast_projector_llava_uhd_v2 import can_reorder, project_views
from .hiwin_llava_uhd_v2 import LlavaUhdV2WindowAttention
from .vdim_llava_uhd_v2 import LlavaUhdV2BilinearUpsampler, LlavaUhdV2Upsampler


class LlavaUhdV2Projector(GradientCheckpointingLayer):
    """The Hiwin projector (paper 3.2 and 3.3).

    The plain order of operations is that of the paper and the released code, and so the definition of the numbers.
    By default the same numbers are made in another order, at about a tenth of the cost, wherever the layers involved
    are ordinary ones (not wrapped by LoRA, quantised or off-loaded).
    """

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__()
        projector = cast(LlavaUhdV2ProjectorConfig, config.projector_config)
        self.upsampler: nn.Module
        if projector.upsampler == "vdim":
            self.upsampler = LlavaUhdV2Upsampler(projector, config.vision_config.hidden_size)
        else:
            self.upsampler = LlavaUhdV2BilinearUpsampler(projector)
        self.window_attention = LlavaUhdV2WindowAttention(config)

    def forward(self, features: torch.Tensor, pixels: torch.Tensor, plain: bool = False) -> torch.Tensor:
        """
        Args:
            features: (v, c, h, w) from the vision tower.
            pixels: (v, 3, patch * h, patch * w), the normalised views.
            plain: whether to compute in the order of the paper and the released code.

        Returns:
            (v, q, d): the tokens of each view.
        """
        if plain or not can_reorder(self.upsampler, self.window_attention):
            return self.window_attention(self.upsampler(features, pixels))
        return project_views(self.upsampler, self.window_attention, features, pixels)
