# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The projector of LLaVA 1.5: two linear layers on every patch, without a feature pyramid."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_llava_uhd_v2 import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from .initial_weights_llava_uhd_v2 import reset_linear
from .plain_layers_llava_uhd_v2 import call_linear
from .projectors_base_llava_uhd_v2 import LlavaUhdV2BaseProjector
from .registries_llava_uhd_v2 import TOWERS


class LlavaUhdV2MlpProjector(LlavaUhdV2BaseProjector):
    """Makes one token of each patch (`mlp2x_gelu` of the released code)."""

    supported_levels = ((0,),)

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__()
        width = config.text_config.hidden_size
        self.expand = nn.Linear(TOWERS[config.vision_config.model_type].width(config.vision_config), width)
        self.projection = nn.Linear(width, width)

    @staticmethod
    def token_grid(config: LlavaUhdV2ProjectorConfig, height: int, width: int) -> tuple[int, int]:
        """Returns the (rows, columns) of tokens of a view: those of its patches.

        Args:
            config: of the projector.
            height: of the view, in patches.
            width: of the view, in patches.
        """
        return height, width

    @staticmethod
    def memory(config: LlavaUhdV2Config, views: Mapping[tuple[int, int], int], dtype: torch.dtype) -> int:
        """Estimates the peak memory of a call without gradients on a CPU, beside inputs and outputs, in bytes.

        Args:
            config: of the model.
            views: how many there are of each (height, width) in patches.
            dtype: of the weights.
        """
        patches = max(height * width * count for (height, width), count in views.items())
        return 2 * patches * config.text_config.hidden_size * dtype.itemsize  # the hidden layer and its activation

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights, and so of the features that a call takes; quantised layers keep it in their biases."""
        return self.projection.bias.dtype

    def reset_parameters(self):
        """Initialises both layers as PyTorch does by default (released code)."""
        reset_linear((self.expand, self.projection))

    def project(self, features: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Returns the tokens of views of one size, (v, h * w, d).

        Args:
            features: (v, c, h, w).
            pixels: (v, 3, patch * h, patch * w); not used.
        """
        return self.projection(F.gelu(call_linear(self.expand, features.flatten(2).mT)))


__all__ = ["LlavaUhdV2MlpProjector"]
