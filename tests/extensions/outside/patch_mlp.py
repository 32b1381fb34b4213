# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A projector from outside the package: a perceptron for each patch of the lowest level, as many tokens as patches."""

from collections.abc import Mapping

import torch
from torch import nn

from llava_uhd_v2_hf.model.configuration_llava_uhd_v2 import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import PROJECTORS, TOWERS


class PatchMlp(nn.Module):
    """Projects every patch; tokens lie in the grid of patches."""

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__()
        width = config.text_config.hidden_size
        self.expand = nn.Linear(TOWERS[config.vision_config.model_type].width(config.vision_config), width)
        self.project = nn.Linear(width, width)

    @staticmethod
    def token_grid(config: LlavaUhdV2ProjectorConfig, height: int, width: int) -> tuple[int, int]:
        return height, width

    @staticmethod
    def regions(config: LlavaUhdV2ProjectorConfig, height: int, width: int) -> list[tuple[float, float, float, float]]:
        cells = [(row, column) for row in range(height) for column in range(width)]
        return [(row / height, column / width, (row + 1) / height, (column + 1) / width) for row, column in cells]

    @staticmethod
    def memory(config: LlavaUhdV2Config, views: Mapping[tuple[int, int], int], dtype: torch.dtype) -> int:
        patches = sum(height * width * count for (height, width), count in views.items())
        return 2 * patches * config.text_config.hidden_size * dtype.itemsize

    @property
    def dtype(self) -> torch.dtype:
        return self.project.weight.dtype

    def reset_parameters(self):
        self.expand.reset_parameters()
        self.project.reset_parameters()

    def forward(self, features: list[torch.Tensor], pixels: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return tuple(self.project(nn.functional.gelu(self.expand(maps.flatten(2).mT))) for maps in features)


PROJECTORS["patch_mlp"] = PatchMlp
