# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The projector of LLaVA-UHD v1: each query attends to its window of one feature map.

Shape letters: v views, c channels of the tower, d text width, y x the map's grid, q queries (= windows = tokens of a
view), p pooled cells of a window.
"""

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import nn
from transformers import initialization as init

from .configuration_llava_uhd_v2 import LlavaUhdV2Config
from .geometry_llava_uhd_v2 import check_grid
from .initial_weights_llava_uhd_v2 import reset_norms, reset_projection
from .plain_layers_llava_uhd_v2 import call_linear
from .projectors_base_llava_uhd_v2 import LlavaUhdV2CrossAttention, LlavaUhdV2PyramidProjector, pyramid_memory
from .registries_llava_uhd_v2 import POOLING_GRIDS
from .window_attention_llava_uhd_v2 import pool_windows, resize_positions, sincos_position_table


class LlavaUhdV2UhdV1Projector(LlavaUhdV2PyramidProjector):
    """Makes a token of each window of one level: the tower's map (LLaVA-UHD v1), or a finer one (paper table 2)."""

    supported_levels = ((0,), (1,), (2,), (3,))
    options = ("query_grid", "pooling_grids", "pooling_grid_rule")

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__(config)
        projector, width = config.projector_config, self.text_width
        self.query_grid, self.pooling_grids = list(projector.query_grid), projector.pooling_grids
        self.pooling_grid_name = projector.pooling_grid_rule
        self.initializer_range = projector.initializer_range
        self.queries = nn.Parameter(torch.zeros(math.prod(self.query_grid), width))
        self.position_embeddings = nn.Parameter(torch.zeros(math.prod(self.query_grid), width))
        same = self.num_channels == width  # released code
        self.level_projection = nn.Identity() if same else nn.Linear(self.num_channels, width, bias=False)
        self.norm_query = nn.LayerNorm(width, eps=projector.layer_norm_eps)
        self.norm_features = nn.LayerNorm(width, eps=projector.layer_norm_eps)
        self.norm_output = nn.LayerNorm(width, eps=projector.layer_norm_eps)
        heads = cast(int, projector.num_attention_heads)  # in a whole config it is no longer open
        self.attention = LlavaUhdV2CrossAttention(width, heads)
        self.projection = nn.Linear(width, width, bias=False)

    @staticmethod
    def memory(config: LlavaUhdV2Config, views: Mapping[tuple[int, int], int], dtype: torch.dtype) -> int:
        """Estimates the peak memory of a call without gradients on a CPU, beside inputs and outputs, in bytes.

        Args:
            config: of the model.
            views: how many there are of each (height, width) in patches.
            dtype: of the weights.
        """
        projector, width = config.projector_config, config.text_config.hidden_size
        rule, [level] = POOLING_GRIDS[projector.pooling_grid_rule], projector.levels
        cells = max(math.prod(rule(*view, level, projector.pooling_grids)) for view in views)
        windows = math.prod(projector.query_grid) * cells
        # projected maps with their keys; keys and values before and after their projections
        return pyramid_memory(config, views, dtype, widths=4 * width, read=4 * windows * width)

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights, and so of the features that a call takes."""
        return self.queries.dtype

    def reset_parameters(self):
        """Initialises the weights as the released code does."""
        self.upsampler.reset_parameters()  # type: ignore[operator]
        init.trunc_normal_(self.queries, std=self.initializer_range)
        init.copy_(self.position_embeddings, sincos_position_table(self.query_grid, self.text_width))
        if isinstance(self.level_projection, nn.Linear):
            init.trunc_normal_(self.level_projection.weight, std=self.initializer_range)
        self.attention.reset_parameters(self.initializer_range)
        reset_norms(self)
        reset_projection(self.projection)

    def choose_pooling_grid(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (rows, columns) of cells of a window.

        Args:
            height: of the view, in patches.
            width: of the view, in patches.
        """
        grid = POOLING_GRIDS[self.pooling_grid_name](height, width, self.levels[0], self.pooling_grids)
        return check_grid(grid, f"The rule for pooling grids `{self.pooling_grid_name}`")

    def make_tokens(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """Returns the tokens of views, (v, q, d).

        Args:
            levels: the one that is read, (v, c, y, x).
        """
        [maps], [level] = levels, self.levels
        height, width = maps.shape[-2:]
        grid = self.choose_pooling_grid(height >> level, width >> level)
        pixels = call_linear(self.level_projection, maps.flatten(2).mT)
        value = self.norm_features(pixels).unflatten(1, (height, width))
        key = value + resize_positions(self.position_embeddings, self.query_grid, (height, width)).to(value.dtype)
        keys, values = (pool_windows(states, self.query_grid, grid) for states in (key, value))
        queries = self.norm_query(self.queries) + self.position_embeddings
        tokens = self.attention(queries[:, None], keys, values).squeeze(2)
        return self.projection(self.norm_output(tokens))


__all__ = ["LlavaUhdV2UhdV1Projector"]
