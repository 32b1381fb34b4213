# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The Hiwin projector in another order of operations: the same numbers for a fraction of the work and memory.

Up-sampling, RoI-align and projections are linear, so they commute; layer norm divides by one number a pixel, which a
Gram matrix of the ViT grid's projected features gives; and one query a window needs no projected keys. No map of a
finer level is ever built with the text model's channels. docs/performance.md derives it.

Shape letters: v views, c ViT channels, d text width, y x a level's grid, m = n + j + 1 sources (the n features of the
ViT's grid and constants), w windows of a strip, p pooled cells of a window, k = levels * p keys of a window, s query
sets, g heads of a group, e channels of a head.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .geometry_llava_uhd_v2 import choose_pooling_grid
from .hiwin_llava_uhd_v2 import LlavaUhdV2WindowAttention, roi_align_weights
from .operators_llava_uhd_v2 import AdaptiveOperator, SeparableOperator, build_operators
from .vdim_llava_uhd_v2 import full_precision


# Bytes of projected features of the views that are worked through together, of the absorbed queries of a group of
# heads, and windows of a strip: large enough for efficient matrix products, small enough to bound memory.
CHUNK_BYTES = 2**27
GROUP_BYTES = 2**24
STRIP_WINDOWS = 24


@dataclass
class ProjectedLevel:
    """One level of the pyramid after its projection, as sources that an operator mixes.

    Args:
        operator: makes the level's pixels from the sources.
        gram: (v, m, m), products of the centred sources over d: the variance of every mixture.
        values: (v, m, d), the centred sources times the layer norm's gain.
        along_rows: (rows of cells, y), RoI-align along the rows.
        along_columns: (columns of cells, x).
        key_rows: (rows of cells, query rows), RoI-align of the position table's rows.
        key_columns: (columns of cells, query columns).
        embedding: (d,), the level's embedding.
        epsilon: of the layer norm.
    """

    operator: SeparableOperator | AdaptiveOperator
    gram: torch.Tensor
    values: torch.Tensor
    along_rows: torch.Tensor
    along_columns: torch.Tensor
    key_rows: torch.Tensor
    key_columns: torch.Tensor
    embedding: torch.Tensor
    epsilon: float


def has_plain_weights(module: nn.Module) -> bool:
    """Whether a layer computes with the weight that it shows: not wrapped, quantised, sharded or off-loaded."""
    weight: Any = module.weight
    return (
        type(module) in (nn.Linear, nn.LayerNorm)
        and type(weight) in (nn.Parameter, torch.Tensor)
        and weight.is_floating_point()
        and not weight.is_meta
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and "forward" not in vars(module)
    )


def can_reorder(upsampler: nn.Module, attention: LlavaUhdV2WindowAttention) -> bool:
    """Whether every layer whose weight the other order reads is an ordinary one."""
    layers = [attention.key, attention.value, attention.norm_features, *attention.level_projections.values()]
    layers += getattr(upsampler, "fixups", {}).values()
    hooked = bool(attention._forward_pre_hooks) or "forward" in vars(attention)
    return not hooked and all(has_plain_weights(layer) for layer in layers)


def project_views(
    upsampler: nn.Module, attention: LlavaUhdV2WindowAttention, features: torch.Tensor, pixels: torch.Tensor
) -> torch.Tensor:
    """As `attention(upsampler(features, pixels))`, in the other order.

    Args:
        upsampler: [`LlavaUhdV2Upsampler`] or [`LlavaUhdV2BilinearUpsampler`].
        attention: the window attention.
        features: (v, c, h, w).
        pixels: (v, 3, patch * h, patch * w).

    Returns:
        (v, q, d): the tokens of each view.
    """
    patches = features.shape[-2] * features.shape[-1]
    size = views_per_chunk(patches, len(attention.levels), attention.key.in_features, features.element_size())
    chunks = zip(features.split(size), pixels.split(size), strict=True)
    return torch.cat([project_chunk(upsampler, attention, *chunk) for chunk in chunks])


def views_per_chunk(patches: int, levels: int, width: int, itemsize: int) -> int:
    """How many views of so many patches are worked through together."""
    return max(CHUNK_BYTES // (levels * patches * width * itemsize), 1)


def project_chunk(
    upsampler: nn.Module, attention: LlavaUhdV2WindowAttention, features: torch.Tensor, pixels: torch.Tensor
) -> torch.Tensor:
    """[`project_views`] for as many views as go through memory at once."""
    with torch.autocast(features.device.type, enabled=False):
        levels = project_levels(upsampler, attention, features, pixels)
        height, width = features.shape[-2:]
        pooling_grid = choose_pooling_grid(height, width, attention.pooling_grids)
        query = attention.query(attention.norm_query(attention.queries) + attention.position_embeddings)
        rows, columns = attention.query_grid
        strip = max(STRIP_WINDOWS // columns, 1)
        attended = []
        for first in range(0, rows, strip):
            last = min(first + strip, rows)
            strip_query = query[:, first * columns : last * columns]
            arguments = (attention, levels, strip_query, first, last, pooling_grid, (height, width))
            if torch.is_grad_enabled():
                # what a strip leaves behind is as large as all features of the view: made again in the backward pass
                attended.append(checkpoint(attend_strip, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                attended.append(attend_strip(*arguments))
    del levels
    return attention.combine(torch.cat(attended, dim=1))


def project_levels(
    upsampler: nn.Module, attention: LlavaUhdV2WindowAttention, features: torch.Tensor, pixels: torch.Tensor
) -> list[ProjectedLevel]:
    """Projects the sources of every level that the queries read."""
    pyramid = build_operators(upsampler, features, pixels)
    height, width = features.shape[-2:]
    pooling_grid = choose_pooling_grid(height, width, attention.pooling_grids)
    levels = []
    for index, level in enumerate(attention.levels):
        operator, sources = pyramid[level]
        layer = cast(nn.Linear, attention.level_projections[str(level)])
        projected = F.linear(sources, layer.weight)
        projected = torch.cat([projected[:, :-1], projected[:, -1:] + layer.bias], dim=1)
        centred = full_precision(projected)
        centred = centred - centred.mean(dim=-1, keepdim=True)
        axes = [
            pooling_matrices(length << level, windows, cells, centred.dtype, centred.device)
            for length, windows, cells in zip((height, width), attention.query_grid, pooling_grid, strict=True)
        ]
        levels.append(
            ProjectedLevel(
                operator=operator,
                gram=centred @ centred.transpose(1, 2) / centred.shape[-1],
                values=(centred * attention.norm_features.weight).to(projected.dtype),
                along_rows=axes[0][0],
                along_columns=axes[1][0],
                key_rows=axes[0][1],
                key_columns=axes[1][1],
                embedding=attention.level_embeddings[index],
                epsilon=attention.norm_features.eps,
            )
        )
    return levels


@lru_cache(maxsize=64)
def pooling_matrices(
    length: int, windows: int, cells: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """RoI-align along one axis, of a level's pixels and of the position table resized to them.

    Returns:
        (windows * cells, length) and (windows * cells, windows).
    """
    weights = roi_align_weights(length, windows, cells).to(dtype)
    table = torch.eye(windows, dtype=dtype).view(1, windows, windows, 1)
    resized = F.interpolate(table, size=(length, 1), mode="bicubic", align_corners=False)[0, :, :, 0].T
    return weights.to(device), (weights @ resized).to(device)


def attend_strip(
    attention: LlavaUhdV2WindowAttention,
    levels: list[ProjectedLevel],
    query: torch.Tensor,
    first: int,
    last: int,
    pooling_grid: tuple[int, int],
    grid: tuple[int, int],
) -> torch.Tensor:
    """Attention inside the windows of the rows `first` to `last`: (v, w, s, d), before the output projection.

    Args:
        attention: the window attention.
        levels: the projected levels.
        query: (s, w, d), the projected queries of the strip.
        first, last: rows of windows.
        pooling_grid: (rows, columns) of cells in a window.
        grid: (h, w) of the ViT.
    """
    cells = slice(first * pooling_grid[0], last * pooling_grid[0])
    keys = torch.cat([pool_strip(level, cells, pooling_grid, attention.query_grid[1], grid) for level in levels], 2)
    constants, coverage = zip(*(constant_keys(attention, level, cells, pooling_grid) for level in levels), strict=True)
    return attend_absorbed(attention, query, keys, torch.cat(constants, 1), torch.cat(coverage, 1))


def pool_strip(
    level: ProjectedLevel, cells: slice, pooling_grid: tuple[int, int], columns: int, grid: tuple[int, int]
) -> torch.Tensor:
    """A level's normalised pixels (without the norm's bias) pooled into the windows of a strip: (v, w, p, d)."""
    along_rows = level.along_rows[cells]
    reached = along_rows.any(0).nonzero()
    first, last = (int(reached.min()), int(reached.max()) + 1) if len(reached) else (0, 1)
    source = reached_rows(level.operator, first, last, grid[0])
    index = torch.cat(
        [
            torch.arange(source.start * grid[1], source.stop * grid[1]),
            torch.arange(grid[0] * grid[1], level.gram.shape[1]),
        ]
    ).to(level.gram.device)
    operator = level.operator.rows(first, last, source).to(level.gram.dtype)
    operator = operator.expand(len(level.gram), -1, -1, -1)

    gram = level.gram[:, index][:, :, index]
    variance = ((operator.flatten(1, 2) @ gram).view_as(operator) * operator).sum(-1, keepdim=True)
    weights = operator * torch.rsqrt(variance.clamp(min=0) + level.epsilon)
    weights = torch.einsum("ay,vyxm->vaxm", along_rows[:, first:last], weights)
    weights = torch.einsum("bx,vaxm->vabm", level.along_columns, weights)
    weights = into_windows(weights, pooling_grid, columns)
    pooled = weights.flatten(1, 2).to(level.values.dtype) @ level.values[:, index]
    return pooled.view(*weights.shape[:3], -1)


def into_windows(cells: torch.Tensor, pooling_grid: tuple[int, int], columns: int) -> torch.Tensor:
    """(..., rows of cells, columns of cells, m) -> (..., w, p, m)."""
    windows = cells.unflatten(-2, (columns, pooling_grid[1])).unflatten(-4, (-1, pooling_grid[0]))
    return windows.transpose(-3, -4).flatten(-5, -4).flatten(-3, -2)


def reached_rows(operator: SeparableOperator | AdaptiveOperator, first: int, last: int, height: int) -> slice:
    """The rows of the ViT's grid that a level's rows `first` to `last` are made of."""
    for _ in range(operator.steps):
        first, last = first // 2 - operator.reach, (last - 1) // 2 + operator.reach + 1
    return slice(max(first, 0), min(last, height))


def constant_keys(
    attention: LlavaUhdV2WindowAttention, level: ProjectedLevel, cells: slice, pooling_grid: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the keys of a strip hold for every image: (w, p, d); and the weight of their samples on the map: (w, p).

    That is the pooled positions, the level's embedding and the layer norm's bias; the last two shrink where a window
    reaches over the edge of the map.
    """
    columns = attention.query_grid[1]
    table = full_precision(attention.position_embeddings).unflatten(0, attention.query_grid)
    positions = torch.einsum("ai,ijd->ajd", level.key_rows[cells], table)
    positions = torch.einsum("bj,ajd->abd", level.key_columns, positions)
    coverage = level.along_rows[cells].sum(1)[:, None, None] * level.along_columns.sum(1)[:, None]
    keys = positions + coverage * full_precision(level.embedding + attention.norm_features.bias)
    keys = into_windows(keys, pooling_grid, columns).to(attention.position_embeddings.dtype)
    return keys, into_windows(coverage, pooling_grid, columns)[..., 0]


def attend_absorbed(
    attention: LlavaUhdV2WindowAttention,
    query: torch.Tensor,
    keys: torch.Tensor,
    constants: torch.Tensor,
    coverage: torch.Tensor,
) -> torch.Tensor:
    """Multi-head attention without projected keys and values: the projections go to the one query and its answer.

    Args:
        attention: the window attention.
        query: (s, w, d), projected.
        keys: (v, w, k, d), pooled features without what is constant.
        constants: (w, k, d), to be added to the keys.
        coverage: (w, k), how much of the layer norm's bias a value holds.

    Returns:
        (v, w, s, d).
    """
    sets, windows, width = query.shape
    heads, views = attention.num_heads, len(keys)
    query = query.unflatten(-1, (heads, -1)) * (width // heads) ** -0.5
    key_weight = attention.key.weight.unflatten(0, (heads, -1))
    key_bias = attention.key.bias.unflatten(0, (heads, -1))
    value_weight = attention.value.weight.unflatten(0, (heads, -1))
    value_bias = attention.value.bias.unflatten(0, (heads, -1))
    group = max(GROUP_BYTES // (sets * windows * width * query.element_size()), 1)
    attended = []
    for start in range(0, heads, group):
        part = slice(start, start + group)
        # copies: a checkpoint's tensors lie at any address, and products of unaligned matrices are rounded differently
        to_keys, to_answer = key_weight[part].clone(), value_weight[part].clone()
        absorbed = torch.einsum("swge,ged->wsgd", query[:, :, part], to_keys).flatten(1, 2)
        of_key_bias = torch.einsum("swge,ge->wsg", query[:, :, part], key_bias[part]).flatten(1)[..., None]
        fixed_scores = absorbed @ constants.transpose(1, 2) + of_key_bias
        of_bias = to_answer @ attention.norm_features.bias
        group_attended = []
        for view in range(views):
            scores = full_precision(absorbed @ keys[view].transpose(1, 2) + fixed_scores)
            weights = scores.softmax(dim=-1)
            covered = (weights * coverage[:, None]).sum(-1).unflatten(1, (sets, -1))[..., None].to(keys.dtype)
            mixed = (weights.to(keys.dtype) @ keys[view]).unflatten(1, (sets, -1))
            answer = torch.einsum("wsgd,ged->wsge", mixed, to_answer)
            group_attended.append(answer + covered * of_bias + value_bias[part])
        attended.append(torch.stack(group_attended))
    return torch.cat(attended, dim=3).flatten(-2)
