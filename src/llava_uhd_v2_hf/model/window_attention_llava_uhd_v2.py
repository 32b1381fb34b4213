# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Hierarchical window attention: from the inverse semantic pyramid to a view's tokens (paper 3.3).

Shape letters: v views, c ViT channels, d text width, h w grid of a level, q queries (= windows = tokens of a view),
s query sets, p pooled cells of a window, k keys of a window (its cells on all levels).
"""

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.utils.generic import maybe_autocast

from .configuration_llava_uhd_v2 import LlavaUhdV2Config
from .geometry_llava_uhd_v2 import check_grid
from .initial_weights_llava_uhd_v2 import reset_attention, reset_norms, reset_projection
from .plain_layers_llava_uhd_v2 import call_linear
from .registries_llava_uhd_v2 import POOLING_GRIDS, TOWERS
from .resizing_llava_uhd_v2 import full_precision, resize


def sincos_position_table(query_grid: list[int], width: int) -> torch.Tensor:
    """Initial 2D sine-cosine positions, (q, d): the first half of the channels tells the column, the second the row.

    Each half is [sin | cos] with the frequencies 10000^(-k / (d / 4)) (released code).
    """
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))

    def encode(positions: torch.Tensor) -> torch.Tensor:
        angles = positions[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in query_grid), indexing="ij")
    return torch.cat([encode(columns.flatten()), encode(rows.flatten())], dim=1).float()


def roi_align_weights(length: int, windows: int, cells: int, device: torch.device | None = None) -> torch.Tensor:
    """RoI-align along one axis, as a matrix: (windows * cells, length) in float32.

    The axis is cut into equal windows and each is pooled to `cells`. As in the released code (torchvision with
    `aligned=False` and an adaptive number of samples): no half-pixel shift, a window shorter than a pixel is enlarged
    to one, and samples that fall off the end of the map count as zero.
    """
    edges = (torch.arange(windows + 1, dtype=torch.float64, device="cpu") * length / windows).float()
    starts, window_length = edges[:-1], (edges[1:] - edges[:-1]).clamp(min=1)
    samples = max(math.ceil(length / (windows * cells)), 1)
    cell_length = (window_length / cells)[:, None, None]
    cell_starts = torch.arange(cells, device="cpu")[:, None] * cell_length
    positions = (
        starts[:, None, None] + cell_starts + (torch.arange(samples, device="cpu") + 0.5) * cell_length / samples
    )
    positions = positions.reshape(-1, 1)

    inside = positions <= length
    positions = positions.clamp(max=length - 1)
    distances = (positions - torch.arange(length, device="cpu")).abs()
    weights = (1 - distances).clamp(min=0) * inside
    return weights.reshape(windows * cells, samples, length).mean(dim=1).to(device)


def resize_positions(table: torch.Tensor, query_grid: list[int], size: tuple[int, int]) -> torch.Tensor:
    """Resizes a position table of the queries by bicubic interpolation, in float32: (q, d) -> (y, x, d)."""
    maps = full_precision(table).unflatten(0, query_grid).permute(2, 0, 1)
    return resize(maps.contiguous(), size, "bicubic").permute(1, 2, 0)  # channels first is the faster layout


def pool_windows(maps: torch.Tensor, query_grid: list[int], pooling_grid: tuple[int, int]) -> torch.Tensor:
    """Cuts maps into equal windows and pools each by RoI-align: (v, h, w, d) -> (v, q, p, d)."""
    views, height, width, channels = maps.shape
    (rows, columns), (pool_rows, pool_columns) = query_grid, pooling_grid
    along_rows = roi_align_weights(height, rows, pool_rows, maps.device)
    along_columns = roi_align_weights(width, columns, pool_columns, maps.device)
    with maybe_autocast(maps.device.type, enabled=False):
        maps_ = full_precision(maps)
        pooled = (along_rows.to(maps_.dtype) @ maps_.flatten(2)).unflatten(2, (width, channels))
        pooled = along_columns.to(maps_.dtype) @ pooled
    pooled = pooled.to(maps.dtype).view(views, rows, pool_rows, columns, pool_columns, channels).transpose(2, 3)
    return pooled.reshape(views, rows * columns, pool_rows * pool_columns, channels)


class LlavaUhdV2WindowAttention(nn.Module):
    """Condenses the pyramid into one token a window: each query attends to its window on all levels (paper eq. 4, 5).

    Beyond the paper, as in the released code: several query sets that share one attention and are mixed afterwards,
    layer norms, and key positions that are pooled together with the features.
    """

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__()
        projector = config.projector_config
        tower = TOWERS[config.vision_config.model_type]
        channels, width = tower.width(config.vision_config), config.text_config.hidden_size
        self.levels = projector.levels
        self.query_grid = list(projector.query_grid)
        self.pooling_grids = projector.pooling_grids
        self.pooling_grid_name = projector.pooling_grid_rule
        self.pooling_grid_rule = POOLING_GRIDS[projector.pooling_grid_rule]
        self.initializer_range = projector.initializer_range
        self.num_heads = cast(int, projector.num_attention_heads)  # in a whole config it is no longer open
        self.num_channels = channels
        queries, sets = math.prod(projector.query_grid), projector.num_query_sets

        self.level_projections = nn.ModuleDict({str(level): nn.Linear(channels, width) for level in self.levels})
        self.level_embeddings = nn.Parameter(torch.zeros(len(self.levels), width))
        self.position_embeddings = nn.Parameter(torch.zeros(queries, width))
        self.queries = nn.Parameter(torch.zeros(sets, queries, width))
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.mix = nn.Linear(sets * width, width)
        self.projection = nn.Linear(width, width, bias=False)
        self.norm_query = nn.LayerNorm(width, eps=projector.layer_norm_eps)
        self.norm_features = nn.LayerNorm(width, eps=projector.layer_norm_eps)
        self.norm_attention = nn.LayerNorm(width, eps=projector.layer_norm_eps)
        self.norm_output = nn.LayerNorm(width, eps=projector.layer_norm_eps)

    def reset_parameters(self):
        """Initialises the weights as the released code does."""
        for layer in (*self.level_projections.values(), self.output, self.mix):
            init.trunc_normal_(layer.weight, std=self.initializer_range)
            init.zeros_(layer.bias)
        reset_attention(self.query, self.key, self.value)
        reset_projection(self.projection)
        reset_norms(self)
        init.zeros_(self.level_embeddings)
        init.copy_(self.position_embeddings, sincos_position_table(self.query_grid, self.queries.shape[-1]))
        init.trunc_normal_(self.queries, std=self.initializer_range)

    def level_pooling_grids(self, height: int, width: int) -> list[tuple[int, int]]:
        """Returns the (rows, columns) of cells that a window has on each level that is read.

        Args:
            height: of the view, in patches.
            width: of the view, in patches.
        """
        rule, source = self.pooling_grid_rule, f"The rule for pooling grids `{self.pooling_grid_name}`"
        return [check_grid(rule(height, width, level, self.pooling_grids), source) for level in self.levels]

    def key_offsets(self, height: int, width: int) -> list[torch.Tensor]:
        """What is added to the keys of each level of an (h, w) grid: positions and level embedding, (y, x, d)."""
        offsets = []
        for level, embedding in zip(self.levels, self.level_embeddings):
            size = (height << level, width << level)
            positions = resize_positions(self.position_embeddings, self.query_grid, size)
            offsets.append(positions.to(embedding.dtype).contiguous() + embedding)
        return offsets

    def keys_and_values(
        self, pyramid: list[torch.Tensor], offsets: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pools every level into its windows: maps (v, c, h, w) -> keys and values, each (v, q, k, d)."""
        height, width = pyramid[0].shape[-2:]
        grids = self.level_pooling_grids(height, width)
        keys, values = [], []
        for level, offset, pooling_grid in zip(self.levels, offsets, grids, strict=True):
            pixels = call_linear(self.level_projections[str(level)], pyramid[level].flatten(2).mT)
            value = self.norm_features(pixels).unflatten(1, offset.shape[:2])
            keys.append(pool_windows(value + offset, self.query_grid, pooling_grid))
            values.append(pool_windows(value, self.query_grid, pooling_grid))
        return torch.cat(keys, dim=2), torch.cat(values, dim=2)

    def attend(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Attention inside each window, before the output projection.

        Args:
            queries: (s, q, d), of one set or of several that share the projected keys and values.
            keys, values: (v, q, k, d).

        Returns:
            (v, q, s, d).
        """
        query = self.query(self.norm_query(queries) + self.position_embeddings)

        def split_heads(states: torch.Tensor) -> torch.Tensor:
            return states.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)

        views = keys.shape[0]
        attended = F.scaled_dot_product_attention(
            split_heads(query.transpose(0, 1)).expand(views, -1, -1, -1, -1),
            split_heads(self.key(keys.flatten(0, 1))).unflatten(0, (views, -1)),
            split_heads(self.value(values.flatten(0, 1))).unflatten(0, (views, -1)),
        )
        return attended.transpose(-2, -3).flatten(-2)

    def combine(self, attended: torch.Tensor) -> torch.Tensor:
        """Output projection, and the sets mixed into one token a window: (v, q, s, d) -> (v, q, d)."""
        sets = self.norm_attention(self.output(attended.flatten(0, 1)))
        return self.projection(self.norm_output(self.mix(sets.flatten(1).unflatten(0, attended.shape[:2]))))

    def forward(self, pyramids: Iterable[list[torch.Tensor]], sets_apart: bool = True) -> torch.Tensor:
        """
        Args:
            pyramids: each of some of the views: levels 0 to the highest one used, (v, c, 2^l h, 2^l w).
            sets_apart: whether each query set projects keys and values anew, as in the released code.

        Returns:
            (v, q, d): the tokens of each view, in row-major order of the windows.
        """
        tokens, offsets = [], None
        sets = self.queries.split(1) if sets_apart else [self.queries]
        for pyramid in pyramids:
            offsets = offsets or self.key_offsets(*pyramid[0].shape[-2:])
            keys, values = self.keys_and_values(pyramid, offsets)
            attended = torch.cat([self.attend(queries, keys, values) for queries in sets], dim=2)
            tokens.append(self.combine(attended))
        return torch.cat(tokens)


__all__ = [
    "LlavaUhdV2WindowAttention",
    "pool_windows",
    "resize_positions",
    "roi_align_weights",
    "sincos_position_table",
]
