# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A perceiver resampler on the levels of the pyramid (`percive_sampler` of the released code).

Shape letters: v views, c channels of the tower, d text width, h w grid of a view in patches, q queries (= tokens of a
view).
"""

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import nn
from transformers import initialization as init

from .configuration_llava_uhd_v2 import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from .initial_weights_llava_uhd_v2 import reset_norms, reset_projection
from .projectors_base_llava_uhd_v2 import LlavaUhdV2CrossAttention, LlavaUhdV2PyramidProjector, pyramid_memory
from .resizing_llava_uhd_v2 import full_precision, resize
from .window_attention_llava_uhd_v2 import resize_positions, sincos_position_table


class LlavaUhdV2PerceiverProjector(LlavaUhdV2PyramidProjector):
    """Lets every query attend to all pixels of all levels, each level resized to a square of fixed size.

    In the released code neither keys nor queries have positions, and nothing follows the attention. With
    `perceiver_positions` keys have them, and a layer norm and a projection follow, as in MiniCPM-V's resampler.
    """

    options = ("query_grid", "perceiver_grid", "perceiver_positions")

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__(config)
        projector, width = config.projector_config, self.text_width
        self.query_grid, self.grid = list(projector.query_grid), list(projector.perceiver_grid)
        self.has_positions = projector.perceiver_positions
        self.initializer_range = projector.initializer_range
        self.queries = nn.Parameter(torch.zeros(math.prod(self.query_grid), width))
        same = self.num_channels == width  # released code
        self.level_projection = nn.Identity() if same else nn.Linear(self.num_channels, width, bias=False)
        self.norm_query = nn.LayerNorm(width, eps=projector.layer_norm_eps)
        self.norm_features = nn.LayerNorm(width, eps=projector.layer_norm_eps)
        heads = cast(int, projector.num_attention_heads)  # in a whole config it is no longer open
        self.attention = LlavaUhdV2CrossAttention(width, heads)
        if self.has_positions:
            self.position_embeddings = nn.Parameter(torch.zeros(math.prod(self.query_grid), width))
            self.norm_output = nn.LayerNorm(width, eps=projector.layer_norm_eps)
            self.projection = nn.Linear(width, width, bias=False)

    @classmethod
    def regions(cls, config: LlavaUhdV2ProjectorConfig, height: int, width: int) -> None:
        """Returns None: each token sees the whole view."""

    @staticmethod
    def memory(config: LlavaUhdV2Config, views: Mapping[tuple[int, int], int], dtype: torch.dtype) -> int:
        """Estimates the peak memory of a call without gradients on a CPU, beside inputs and outputs, in bytes.

        Args:
            config: of the model.
            views: how many there are of each (height, width) in patches.
            dtype: of the weights.
        """
        projector = config.projector_config
        keys = sum(math.prod(projector.perceiver_grid) << (2 * level) for level in projector.levels)
        # keys before and after their norm, and projected keys and values
        return pyramid_memory(config, views, dtype, widths=0, read=4 * keys * config.text_config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights, and so of the features that a call takes."""
        return self.queries.dtype

    def reset_parameters(self):
        """Initialises the weights as the released code does."""
        self.upsampler.reset_parameters()  # type: ignore[operator]
        init.trunc_normal_(self.queries, std=self.initializer_range)
        if isinstance(self.level_projection, nn.Linear):
            init.trunc_normal_(self.level_projection.weight, std=self.initializer_range)
        self.attention.reset_parameters(self.initializer_range)
        reset_norms(self)
        if self.has_positions:
            init.copy_(self.position_embeddings, sincos_position_table(self.query_grid, self.text_width))
            reset_projection(self.projection)

    def make_tokens(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """Returns the tokens of views, (v, q, d).

        Args:
            levels: those that are read, each (v, c, 2^l h, 2^l w).
        """
        sizes = [(self.grid[0] << level, self.grid[1] << level) for level in self.levels]
        maps = [
            resize(full_precision(level), size, "bilinear").to(level.dtype).flatten(2).mT
            for level, size in zip(levels, sizes, strict=True)
        ]
        values = keys = self.norm_features(self.level_projection(torch.cat(maps, dim=1)))
        if self.has_positions:
            tables = [
                resize_positions(self.position_embeddings, self.query_grid, size).flatten(0, 1) for size in sizes
            ]
            keys = values + torch.cat(tables).to(values.dtype)
        tokens = self.attention(self.norm_query(self.queries), keys, values)
        return self.projection(self.norm_output(tokens)) if self.has_positions else tokens


__all__ = ["LlavaUhdV2PerceiverProjector"]
