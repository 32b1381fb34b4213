# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The Hiwin projector in another order of operations: the same numbers for a fraction of the work and memory.

Up-sampling, RoI-align and projections are linear, so they commute; layer norm divides by one number a pixel, which a
Gram matrix of the ViT grid's features gives; and one query a window needs no projected keys. So levels are pooled into
windows with the ViT's channels, and no finer map is ever built with the text model's. docs/performance.md derives it.

Shape letters: v views, c ViT channels, d text width, y x a level's grid, m sources of a level, q windows, w windows of
a strip, p pooled cells of a window, s query sets, g heads, e channels of a head, l levels.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.utils.generic import maybe_autocast

from .folding_llava_uhd_v2 import AttentionWeights
from .hiwin_llava_uhd_v2 import LlavaUhdV2WindowAttention, roi_align_weights
from .operators_llava_uhd_v2 import Level, build_operators, find_levels
from .vdim_llava_uhd_v2 import full_precision


# Bytes of pooled features of the views that are worked through together, and of the attention's mixtures in a strip of
# windows: large enough for efficient matrix products, small enough to bound memory.
CHUNK_BYTES = 2**26
STRIP_BYTES = 2**25


def project_views(
    upsampler: nn.Module,
    attention: LlavaUhdV2WindowAttention,
    weights: AttentionWeights,
    features: torch.Tensor,
    pixels: torch.Tensor,
    pooling_grid: tuple[int, int],
) -> torch.Tensor:
    """As `attention(upsampler(features, pixels))`, in the other order.

    Args:
        upsampler: [`LlavaUhdV2Upsampler`] or [`LlavaUhdV2BilinearUpsampler`].
        attention: the window attention.
        weights: products of its weights.
        features: (v, c, h, w).
        pixels: (v, 3, patch * h, patch * w).
        pooling_grid: (rows, columns) of cells in a window.

    Returns:
        (v, q, d): the tokens of each view.
    """
    size = views_per_chunk(attention, pooling_grid)
    grid = (features.shape[-2], features.shape[-1])
    chunks = zip(features.split(size), pixels.split(size), strict=True)
    tokens = []
    for chunk in chunks:
        with maybe_autocast(features.device.type, enabled=False):
            levels = find_levels(upsampler, *chunk)
            arguments = (attention, weights, levels, grid, pooling_grid)
            views = [recompute(pool_view, view, *arguments) for view in range(len(chunk[0]))]
            attended = attend(attention, weights, torch.stack(views, dim=2), grid, pooling_grid)
        tokens.append(attention.combine(attended.to(attention.output.weight.dtype)))
    return torch.cat(tokens)


def views_per_chunk(attention: LlavaUhdV2WindowAttention, pooling_grid: tuple[int, int]) -> int:
    """How many views are worked through together."""
    windows, cells = attention.queries.shape[1], pooling_grid[0] * pooling_grid[1]
    return max(CHUNK_BYTES // (windows * len(attention.levels) * cells * attention.num_channels * 4), 1)


def recompute(function, *arguments):
    """Calls a function; where gradients are needed, what it leaves behind is made again in the backward pass."""
    if torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)


def pool_view(
    view: int,
    attention: LlavaUhdV2WindowAttention,
    weights: AttentionWeights,
    levels: list[Level],
    grid: tuple[int, int],
    pooling_grid: tuple[int, int],
) -> torch.Tensor:
    """The features of a view, divided as the layer norm does and pooled into windows: (l, q, p, c + 1).

    The last channel is the constant one, divided and pooled likewise.
    """
    operators = build_operators(levels, view, grid)
    pooled = []
    for level, gram in zip(attention.levels, weights.grams, strict=True):
        operator, sources = operators[level], append_one(levels[level].sources[view])
        spread = sources @ gram @ sources.T
        variance = ((operator @ spread) * operator).sum(-1, keepdim=True)
        normed = operator * torch.rsqrt(variance.clamp(min=0) + attention.norm_features.eps)
        axes = zip(operator.shape[:2], attention.query_grid, pooling_grid, strict=True)
        along_rows, along_columns = (pooling_matrix(*axis, normed.dtype, normed.device) for axis in axes)
        cells = (along_rows @ normed.flatten(1)).unflatten(1, normed.shape[1:])
        pooled.append(into_windows(along_columns @ cells, attention.query_grid[1], pooling_grid) @ sources)
    return torch.stack(pooled)


def append_one(sources: torch.Tensor) -> torch.Tensor:
    """Adds a channel that is one in the last source, the constant: (m, c) -> (m, c + 1)."""
    one = F.one_hot(torch.tensor([len(sources) - 1], device=sources.device), len(sources)).to(sources.dtype)
    return torch.cat([sources, one.T], dim=1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def pooling_matrix(length: int, windows: int, cells: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """RoI-align along one axis: (windows * cells, length)."""
    return roi_align_weights(length, windows, cells).to(device, dtype)


def into_windows(cells: torch.Tensor, columns: int, pooling_grid: tuple[int, int]) -> torch.Tensor:
    """(rows of cells, columns of cells, m) -> (q, p, m)."""
    windows = cells.unflatten(1, (columns, pooling_grid[1])).unflatten(0, (-1, pooling_grid[0]))
    return windows.transpose(1, 2).flatten(0, 1).flatten(1, 2)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def pool_constants(
    grid: tuple[int, int],
    levels: tuple[int, ...],
    query_grid: tuple[int, int],
    pooling_grid: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """How much of every fixed key a pooled key holds: (l, q, p, t), t as in [`AttentionWeights`].

    The constants of a level shrink where a window reaches over the edge of the map; the key bias doesn't.
    """
    held = []
    for index, level in enumerate(levels):
        tables, sums = [], []
        for length, windows, cells in zip(grid, query_grid, pooling_grid, strict=True):
            weights = pooling_matrix(length << level, windows, cells, torch.float64, torch.device("cpu"))
            table = torch.eye(windows, dtype=torch.float64, device="cpu").view(1, windows, windows, 1)
            resized = F.interpolate(table, size=(length << level, 1), mode="bicubic")[0, :, :, 0].T
            tables.append(weights @ resized)
            sums.append(weights.sum(1))
        positions = torch.einsum("ai,bj->abij", *tables).flatten(2)
        constants = F.one_hot(torch.tensor(index, device="cpu"), len(levels)) * torch.outer(*sums)[..., None]
        all_keys = torch.cat([positions, constants, torch.ones_like(constants[..., :1])], dim=-1)
        held.append(into_windows(all_keys, query_grid[1], pooling_grid))
    return torch.stack(held).to(device, dtype)


def attend(
    attention: LlavaUhdV2WindowAttention,
    weights: AttentionWeights,
    pooled: torch.Tensor,
    grid: tuple[int, int],
    pooling_grid: tuple[int, int],
) -> torch.Tensor:
    """Attention inside the windows, strip by strip: (l, q, v, p, c + 1) -> (v, q, s, d)."""
    query_grid, levels = tuple(attention.query_grid), tuple(attention.levels)
    constants = pool_constants(grid, levels, query_grid, pooling_grid, pooled.dtype, pooled.device)
    _, windows, views = pooled.shape[:3]
    mixtures = views * weights.query.shape[1] * weights.to_keys.shape[0]
    strip = max(STRIP_BYTES // (mixtures * weights.to_keys[0, 0].numel() * pooled.element_size()), 1)
    attended = []
    for first in range(0, windows, strip):
        part = slice(first, first + strip)
        attended.append(recompute(attend_strip, attention, weights, pooled[:, part], constants[:, part], part))
    return torch.cat(attended, dim=1)


def attend_strip(
    attention: LlavaUhdV2WindowAttention,
    weights: AttentionWeights,
    pooled: torch.Tensor,
    constants: torch.Tensor,
    part: slice,
) -> torch.Tensor:
    """Attention inside the windows of `part`: (l, w, v, p, c + 1) -> (v, w, s, d)."""
    keys = pooled if weights.folded else project_pooled(attention, weights, pooled)
    groups, windows, views, cells = keys.shape[:4]
    sets, heads = weights.query.shape[1:3]

    # every product of a query with a projection of a key is a product of an absorbed query with the key
    absorbed = torch.einsum("wsge,gehx->hwsgx", weights.query[part], weights.to_keys)
    scores = absorbed.flatten(2, 3) @ keys.flatten(2, 3).transpose(-1, -2)
    scores = scores.view(groups, windows, -1, views, cells).permute(1, 3, 2, 0, 4).flatten(3)
    fixed = torch.einsum("wsgt,lwpt->wsglp", weights.fixed_scores[part], constants)
    probabilities = (scores + fixed.flatten(1, 2).flatten(2)[:, None]).softmax(dim=-1)

    coverage = constants[..., attention.queries.shape[1] : -1].sum(-1).transpose(0, 1).flatten(1)
    covered = (probabilities * coverage[:, None, None]).sum(-1).view(windows, views, sets, heads)
    answers = covered[..., None] * weights.covered_answer + full_precision(attention.value.bias).view(heads, -1)
    answers = answers.permute(3, 0, 1, 2, 4).flatten(1, 3)
    mixed = probabilities @ side_by_side(keys)
    mixed = mixed.view(windows * views * sets, heads, -1).transpose(0, 1).to(weights.to_answers.dtype)
    answers = torch.baddbmm(answers.to(mixed.dtype), mixed, weights.to_answers.flatten(2).mT)
    return answers.view(heads, windows, views, sets, -1).permute(2, 1, 3, 0, 4).flatten(3)


def side_by_side(keys: torch.Tensor) -> torch.Tensor:
    """Puts each group's keys into channels of their own, zero elsewhere, so that one product mixes the groups apart.

    (groups, w, v, k, x) -> (w, v, groups * k, groups * x).
    """
    last, width = len(keys) - 1, keys.shape[-1]
    apart = [F.pad(part, (group * width, (last - group) * width)) for group, part in enumerate(keys)]
    return torch.cat(apart, dim=2)


def project_pooled(
    attention: LlavaUhdV2WindowAttention, weights: AttentionWeights, pooled: torch.Tensor
) -> torch.Tensor:
    """Level projection and layer norm's gain, where they aren't folded: (l, w, v, p, c + 1) -> (1, w, v, l * p, d)."""
    gain = full_precision(attention.norm_features.weight)
    projected = [keys @ projection * gain for keys, projection in zip(pooled, weights.projections, strict=True)]
    return torch.cat(projected, dim=2)[None]
