# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The Hiwin projector in another order of operations: the same numbers for a fraction of the work and memory.

Up-sampling, RoI-align and projections are linear, so they commute; layer norm divides by one number a pixel, which a
Gram matrix of the ViT grid's features gives; and one query a window needs no projected keys. So levels are pooled into
windows with the ViT's channels, and no finer map is ever built with the text model's. docs/performance.md derives it.

Shape letters: v views, c ViT channels, d text width, y x a level's grid, m sources of a level, q windows, w windows of
a strip, p pooled cells of a window, s query sets, g heads, h heads of a group, e channels of a head, l levels.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.utils.generic import maybe_autocast

from .folding_llava_uhd_v2 import AttentionWeights
from .operators_llava_uhd_v2 import Level, build_operators, build_rows
from .resizing_llava_uhd_v2 import cache_constants, full_precision, resizing_weights
from .window_attention_llava_uhd_v2 import LlavaUhdV2WindowAttention, roi_align_weights


# What is worked through together, in bytes: it bounds memory, and is enough for efficient matrix products on a CPU.
CHUNK_BYTES = 2**25  # pooled features of a chunk of views
BAND_BYTES = 2**22  # a band of the top level's operator
STRIP_BYTES = 2**26  # the attention's mixtures in a strip of windows, of which each group of heads has its part
HEAD_GROUPS = 8
OUTPUT_BYTES = 2**25  # answers that go through the output layers
ACCELERATOR_FACTOR = 32  # times as much on an accelerator, where it is launches that take time


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
        upsampler: a linear one, with `linear_levels`.
        attention: the window attention.
        weights: products of its weights.
        features: (v, c, h, w).
        pixels: (v, 3, patch * h, patch * w).
        pooling_grid: (rows, columns) of cells in a window.

    Returns:
        (v, q, d): the tokens of each view.
    """
    windows, cells = attention.queries.shape[1], pooling_grid[0] * pooling_grid[1]
    view_bytes = windows * len(attention.levels) * cells * attention.num_channels * 4
    parts = even_parts(len(features), budget(CHUNK_BYTES, features) // view_bytes)
    arguments = (upsampler, attention, weights)
    return torch.cat([project_chunk(*arguments, features[part], pixels[part], pooling_grid) for part in parts])


def project_chunk(
    upsampler: nn.Module,
    attention: LlavaUhdV2WindowAttention,
    weights: AttentionWeights,
    features: torch.Tensor,
    pixels: torch.Tensor,
    pooling_grid: tuple[int, int],
) -> torch.Tensor:
    """As [`project_views`], all views together."""
    grid = (features.shape[-2], features.shape[-1])
    with maybe_autocast(features.device.type, enabled=False):
        levels: list[Level] = upsampler.linear_levels(features, pixels)  # type: ignore[operator]
        view_bytes = (levels[-1].sources[0, :, 0].nbytes * grid[0] * grid[1]) << (2 * max(attention.levels))
        pooled = []
        for part in even_parts(len(features), budget(BAND_BYTES, features) // view_bytes):
            pooled.append(recompute(pool_views, part, attention, weights, levels, grid, pooling_grid))
        del levels
        attended = attend(attention, weights, pooled, grid, pooling_grid)
    del pooled
    attended = attended.to(attention.output.weight.dtype)
    parts = even_parts(len(attended), budget(OUTPUT_BYTES, attended) // attended[0].nbytes)
    return torch.cat([attention.combine(attended[part]) for part in parts])


def budget(size: int, tensor: torch.Tensor) -> int:
    """How many bytes to work through together on the tensor's device."""
    return size if tensor.device.type == "cpu" else size * ACCELERATOR_FACTOR


def even_parts(length: int, largest: int) -> list[slice]:
    """Cuts a range into as few parts of at most `largest` (at least 1) as there can be, of nearly equal sizes."""
    count = -(-length // max(largest, 1))
    ends = [length * index // count for index in range(count + 1)]
    return [slice(*part) for part in pairwise(ends)]


def recompute(function, *arguments):
    """Calls a function; where gradients are needed, what it leaves behind is made again in the backward pass."""
    if torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False)
    return function(*arguments)


def pool_views(
    views: slice,
    attention: LlavaUhdV2WindowAttention,
    weights: AttentionWeights,
    levels: list[Level],
    grid: tuple[int, int],
    pooling_grid: tuple[int, int],
) -> tuple[torch.Tensor, ...]:
    """The features of some views, divided as the layer norm does and pooled into windows: (v, q, p, c + 1) a level.

    The last channel is the constant one, divided and pooled likewise.
    """
    coarser = build_operators(levels[:-1], views, grid)
    pooled = []
    for level, gram in zip(attention.levels, weights.grams, strict=True):
        sources = append_one(levels[level].sources[views])
        spread = sources @ gram @ sources.mT
        size = (grid[0] << level, grid[1] << level)
        axes = zip(size, attention.query_grid, pooling_grid, strict=True)
        along_rows, along_columns = (pooling_matrix(*axis, spread.dtype, spread.device) for axis in axes)
        row_bytes = (size[1] * spread[..., 0].numel() * spread.element_size()) << level
        cells: torch.Tensor | int = 0
        for part in even_parts(grid[0], budget(BAND_BYTES, spread) // row_bytes):
            rows = slice(part.start << level, part.stop << level)
            if level < len(coarser):
                operator = coarser[level][:, rows]
            else:
                operator = build_rows(levels, views, grid, coarser, rows)
            variance = ((operator.flatten(1, 2) @ spread).view_as(operator) * operator).sum(-1, keepdim=True)
            normed = operator * torch.rsqrt(variance.clamp(min=0) + attention.norm_features.eps)
            cells = cells + (along_rows[:, rows] @ normed.flatten(2)).unflatten(2, normed.shape[2:])
        windows = into_windows(along_columns @ cells, attention.query_grid[1], pooling_grid)
        pooled.append((windows.flatten(1, 2) @ sources).unflatten(1, windows.shape[1:3]))
    return tuple(pooled)


def append_one(sources: torch.Tensor) -> torch.Tensor:
    """Adds a channel that is one in the last source, the constant: (v, m, c) -> (v, m, c + 1)."""
    count = sources.shape[1]
    one = F.one_hot(torch.tensor([count - 1], device=sources.device), count).to(sources.dtype)
    return torch.cat([sources, one.mT.expand(len(sources), -1, -1)], dim=2)


@cache_constants(64)
def pooling_matrix(length: int, windows: int, cells: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """RoI-align along one axis: (windows * cells, length)."""
    return roi_align_weights(length, windows, cells).to(device, dtype)


def into_windows(cells: torch.Tensor, columns: int, pooling_grid: tuple[int, int]) -> torch.Tensor:
    """(..., rows of cells, columns of cells, m) -> (..., q, p, m)."""
    windows = cells.unflatten(-2, (columns, pooling_grid[1])).unflatten(-4, (-1, pooling_grid[0]))
    return windows.transpose(-4, -3).flatten(-5, -4).flatten(-3, -2)


@cache_constants(16)
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
            resized = resizing_weights(windows, length << level, "bicubic", torch.float64, torch.device("cpu"))
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
    pooled: list[tuple[torch.Tensor, ...]],
    grid: tuple[int, int],
    pooling_grid: tuple[int, int],
) -> torch.Tensor:
    """Attention inside the windows, strip by strip: of [`pool_views`], part by part -> (v, q, s, d)."""
    query_grid, levels = tuple(attention.query_grid), tuple(attention.levels)
    like = pooled[0][0]
    constants = pool_constants(grid, levels, query_grid, pooling_grid, like.dtype, like.device)
    sets, windows = attention.queries.shape[:2]
    window_bytes = sum(len(views[0]) for views in pooled) * sets * weights.to_keys[:, 0].numel() * like.element_size()
    # split once: each slice of a weight would leave a gradient of the weight's size
    heads = weights.split_heads(-(-attention.num_heads // HEAD_GROUPS))
    attended = [
        recompute(attend_strip, attention, heads, pooled, constants[:, part], part)
        for part in even_parts(windows, budget(STRIP_BYTES, like) // window_bytes)
    ]
    return torch.cat(attended, dim=1)


def attend_strip(
    attention: LlavaUhdV2WindowAttention,
    heads: list[AttentionWeights],
    pooled: list[tuple[torch.Tensor, ...]],
    constants: torch.Tensor,
    part: slice,
) -> torch.Tensor:
    """As [`attend`], for the windows of `part`: (v, w, s, d)."""
    keys = torch.stack([torch.cat([views[:, part] for views in level]).transpose(0, 1) for level in zip(*pooled)])
    if not heads[0].folded:
        keys = project_pooled(attention, heads[0], keys)
    return torch.cat([attend_heads(weights, keys, constants, part) for weights in heads], dim=3).flatten(3)


def attend_heads(weights: AttentionWeights, keys: torch.Tensor, constants: torch.Tensor, part: slice) -> torch.Tensor:
    """As [`attend_strip`], for some heads: (groups, w, v, keys of a group, x) -> (v, w, s, h, e)."""
    groups, windows, views, cells, _ = keys.shape
    query = weights.query[part]
    sets, heads = query.shape[1:3]

    # every product of a query with a projection of a key is a product of an absorbed query with the key
    absorbed = torch.einsum("wsge,gehx->hwsgx", query, weights.to_keys)
    scores = absorbed.flatten(2, 3) @ keys.flatten(2, 3).transpose(-1, -2)
    scores = scores.view(groups, windows, -1, views, cells).permute(1, 3, 2, 0, 4).flatten(3)
    fixed = torch.einsum("wsge,tge->wsgt", query, weights.fixed_keys)
    fixed = torch.einsum("wsgt,lwpt->wsglp", fixed, constants)
    probabilities = (scores + fixed.flatten(1, 2).flatten(2)[:, None]).softmax(dim=-1)

    coverage = constants[..., -1 - len(constants) : -1].sum(-1).transpose(0, 1).flatten(1)
    covered = (probabilities * coverage[:, None, None]).sum(-1).view(windows, views, sets, heads)
    answers = covered[..., None] * weights.covered_answer + weights.answer_bias
    answers = answers.permute(3, 0, 1, 2, 4).flatten(1, 3)

    mixed = probabilities.unflatten(-1, (groups, cells)).movedim(-2, 0) @ keys
    mixed = mixed.view(groups, -1, heads, mixed.shape[-1]).permute(2, 1, 0, 3).to(weights.to_answers.dtype).flatten(2)
    answers = torch.baddbmm(answers.to(mixed.dtype), mixed, weights.to_answers.flatten(2).mT)
    return answers.view(heads, windows, views, sets, -1).permute(2, 1, 3, 0, 4)


def project_pooled(
    attention: LlavaUhdV2WindowAttention, weights: AttentionWeights, pooled: torch.Tensor
) -> torch.Tensor:
    """Level projection and layer norm's gain, where they aren't folded: (l, w, v, p, c + 1) -> (1, w, v, l * p, d)."""
    gain = full_precision(attention.norm_features.weight)
    projected = [keys @ projection * gain for keys, projection in zip(pooled, weights.projections, strict=True)]
    return torch.cat(projected, dim=2)[None]
