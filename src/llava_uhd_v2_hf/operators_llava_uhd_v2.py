# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Up-sampling as matrices: every pixel of a level is a weighted sum of the ViT grid's features.

Up-sampling is linear in the features and the same for every channel, so its matrix can be applied where that is
cheap: before or after a projection, before or after pooling.

Shape letters: v views, c channels, h w the ViT's grid, n = h * w, y x a level's grid (y = 2^l h, x = 2^l w), j columns
for constants, t taps.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .vdim_llava_uhd_v2 import RESIDUAL_SCALE, LlavaUhdV2Upsampler, LlavaUhdV2UpsamplerStage


# Coarse pixels a side whose finer pixels are made by one matrix product.
TILE = 4


class SeparableOperator:
    """An operator that is a product of one matrix an axis: the ViT's own grid, or a bilinear level.

    Args:
        along_rows: (y, h).
        along_columns: (x, w).
        steps: how many times the level is finer by 2.
    """

    reach = 1  # coarse pixels to each side that a finer pixel may be made of, a step

    def __init__(self, along_rows: torch.Tensor, along_columns: torch.Tensor, steps: int):
        self.along_rows, self.along_columns, self.steps = along_rows, along_columns, steps

    def rows(self, first: int, last: int, source: slice) -> torch.Tensor:
        """The operator of the level's rows `first` to `last`, from the ViT's rows in `source`: (1, y, x, n + 1).

        The last column is one, for a constant.
        """
        rows = torch.einsum("yh,xw->yxhw", self.along_rows[first:last, source], self.along_columns)
        return F.pad(rows.flatten(2)[None], (0, 1), value=1.0)


class AdaptiveOperator:
    """The operator of a level made by visual detail injection: the kernels of the last step over a coarser operator.

    Args:
        kernels: (v, y, x, t), weights over the coarser level's pixels, from [`merge_kernels`].
        coarser: (v, y / 2, x / 2, n + j), the operator of the coarser level; j columns tell constants.
        width: w of the ViT's grid.
        steps: how many times the level is finer by 2 than the ViT's grid.
    """

    def __init__(self, kernels: torch.Tensor, coarser: torch.Tensor, constants: int, width: int, steps: int):
        self.kernels, self.coarser, self.constants = kernels, coarser, constants
        self.width, self.steps = width, steps
        self.reach = kernels_reach(kernels)

    def rows(self, first: int, last: int, source: slice) -> torch.Tensor:
        """As [`SeparableOperator.rows`]; before the last, j columns for earlier constants: (v, y, x, n + j + 1)."""
        return F.pad(self.rows_without_one(first, last, source), (0, 1), value=1.0)

    def rows_without_one(self, first: int, last: int, source: slice) -> torch.Tensor:
        start, stop = first // 2, (last + 1) // 2
        columns = self.coarser[..., source.start * self.width : source.stop * self.width]
        if self.constants:
            columns = torch.cat([columns, self.coarser[..., -self.constants :]], dim=-1)
        above, below = self.reach - start, stop + self.reach - columns.shape[1]
        halo = columns[:, max(-above, 0) : stop + self.reach]
        halo = F.pad(halo, (0, 0, 0, 0, max(above, 0), max(below, 0)))
        finer = apply_kernels(self.kernels[:, 2 * start : 2 * stop], halo)
        return finer[:, first - 2 * start : last - 2 * start]


def kernels_reach(kernels: torch.Tensor) -> int:
    return int(kernels.shape[-1] ** 0.5) // 2


@lru_cache(maxsize=64)
def merging_weights(length: int, kernel_size: int, dtype: torch.dtype) -> torch.Tensor:
    """Bicubic x2 and the taps of a kernel along one axis, as weights of coarse pixels: (2 length, taps, reach).

    Entry (p, t, r) is how much the coarse pixel p // 2 + r - reach has part in what tap t of the finer pixel p reads,
    borders included (reflection, or replication where the axis is too short).
    """
    radius = kernel_size // 2
    reach = (2 * radius + 1) // 4 + 2
    bicubic = F.interpolate(
        torch.eye(length, dtype=dtype).view(1, length, length, 1), (2 * length, 1), mode="bicubic", align_corners=False
    )[0, :, :, 0].T
    pixels = torch.arange(2 * length)
    read = pixels[:, None] + torch.arange(-radius, radius + 1)
    if 2 * length > radius:
        read = read.abs()
        read = torch.where(read > 2 * length - 1, 2 * (2 * length - 1) - read, read)
    read = read.clamp(0, 2 * length - 1)
    coarse = (pixels // 2)[:, None, None] + torch.arange(-reach, reach + 1)
    inside = (coarse >= 0) & (coarse < length)
    weights = bicubic[read].gather(2, coarse.clamp(0, length - 1).expand(-1, kernel_size, -1))
    return weights * inside


def merge_kernels(kernels: torch.Tensor) -> torch.Tensor:
    """Merges bicubic x2 into a stage's kernels: (v, t, y, x) over finer pixels -> (v, y, x, t') over coarser ones.

    Exact, borders included: what is read from a finer pixel is a fixed sum of coarser ones.
    """
    views, taps, height, width = kernels.shape
    size = int(taps**0.5)
    down, across = (merging_weights(length // 2, size, kernels.dtype).to(kernels.device) for length in (height, width))
    merged = kernels.unflatten(1, (size, size)).permute(0, 3, 4, 1, 2)
    merged = down.transpose(1, 2)[:, None] @ merged @ across
    return merged.flatten(3)


def apply_kernels(kernels: torch.Tensor, coarser: torch.Tensor) -> torch.Tensor:
    """Sums the coarser pixels around each finer one.

    Args:
        kernels: (v, 2a, 2b, t) from [`merge_kernels`].
        coarser: (v, a + 2 reach, b, m), with the rows above and below that are reached.

    Returns:
        (v, 2a, 2b, m).
    """
    reach = kernels_reach(kernels)
    views, height, width, taps = kernels.shape
    down, across = -(-height // (2 * TILE)), -(-width // (2 * TILE))
    side = TILE + 2 * reach

    kernels = F.pad(kernels, (0, 0, 0, 2 * TILE * across - width, 0, 2 * TILE * down - height))
    kernels = kernels.view(views, down, 2 * TILE, across, 2 * TILE, taps).transpose(2, 3)
    kernels = kernels.reshape(views * down * across, 4 * TILE**2, taps)
    index = tile_index(reach).to(kernels.device).expand(len(kernels), -1, -1)
    matrices = kernels.new_zeros(len(kernels), 4 * TILE**2, side**2).scatter(2, index, kernels)

    below, right = TILE * down - height // 2, TILE * across - width // 2 + reach
    patches = F.pad(coarser, (0, 0, reach, right, 0, below)).unfold(1, side, TILE).unfold(2, side, TILE)
    patches = patches.permute(0, 1, 2, 4, 5, 3).reshape(len(kernels), side**2, -1)
    finer = (matrices @ patches).view(views, down, across, 2 * TILE, 2 * TILE, -1).transpose(2, 3)
    return finer.reshape(views, 2 * TILE * down, 2 * TILE * across, -1)[:, :height, :width]


@lru_cache(maxsize=8)
def tile_index(reach: int) -> torch.Tensor:
    """Where the taps of each finer pixel of a tile lie in the tile's patch of coarser pixels: (4 TILE², t)."""
    corner = torch.arange(2 * TILE) // 2
    read = corner[:, None] + torch.arange(2 * reach + 1)
    return (read[:, None, :, None] * (TILE + 2 * reach) + read[None, :, None, :]).reshape(4 * TILE**2, -1)


def build_operators(upsampler: nn.Module, features: torch.Tensor, pixels: torch.Tensor) -> list[tuple]:
    """The levels of the pyramid as (operator, sources): level = operator applied to sources.

    Fix-ups act on channels, so they are applied to the sources; what they add as a bias becomes a source of its own,
    with a column in the operator.

    Args:
        upsampler: [`LlavaUhdV2Upsampler`] or [`LlavaUhdV2BilinearUpsampler`].
        features: (v, c, h, w).
        pixels: (v, 3, patch * h, patch * w).

    Returns:
        For each level an operator and its sources, (v, n + j + 1, c).
    """
    height, width = features.shape[-2:]
    sources = features.flatten(2).transpose(1, 2)
    unbiased = F.pad(sources, (0, 0, 0, 1))
    dtype = torch.promote_types(features.dtype, torch.float32)
    eyes = [torch.eye(length, dtype=dtype, device=features.device) for length in (height, width)]
    levels: list[tuple] = [(SeparableOperator(eyes[0], eyes[1], steps=0), unbiased)]
    if not isinstance(upsampler, LlavaUhdV2Upsampler):
        for level in range(1, cast(int, upsampler.steps) + 1):
            rows, columns = (resize_rows(eye, len(eye) << level) for eye in eyes)
            levels.append((SeparableOperator(rows, columns, steps=level), unbiased))
        return levels

    coarser = torch.eye(height * width, dtype=dtype, device=features.device)
    coarser = coarser.view(1, height, width, -1).expand(len(features), -1, -1, -1)
    constants = 0
    stages = cast(Iterable[LlavaUhdV2UpsamplerStage], upsampler.stages)
    for level, stage in enumerate(stages, start=1):
        kernels = merge_kernels(stage.kernels(stage.guidance(pixels, (height << level, width << level))))
        operator = AdaptiveOperator(kernels, coarser, constants, width, steps=level)
        has_fixup = str(level) in upsampler.fixups
        if has_fixup:
            sources = fix_up_sources(upsampler, sources, level)
        levels.append((operator, sources if has_fixup else F.pad(sources, (0, 0, 0, 1))))
        if level < len(upsampler.stages):
            make_rows = operator.rows if has_fixup else operator.rows_without_one
            coarser = make_rows(0, height << level, slice(0, height))
            constants += has_fixup
    return levels


def resize_rows(matrix: torch.Tensor, length: int) -> torch.Tensor:
    """Bilinear interpolation along the first axis: (n, m) -> (length, m)."""
    return F.interpolate(matrix.T[None], size=length, mode="linear", align_corners=False)[0].T


def fix_up_sources(upsampler: LlavaUhdV2Upsampler, sources: torch.Tensor, level: int) -> torch.Tensor:
    """Applies a level's fix-up to the sources and appends its bias as one more: (v, n + j, c) -> (v, n + j + 1, c)."""
    fixup = cast(nn.Linear, upsampler.fixups[str(level)])
    kept = upsampler.dropout(sources.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
    sources = sources + RESIDUAL_SCALE * F.linear(kept, fixup.weight)
    bias = (RESIDUAL_SCALE * fixup.bias).expand(len(sources), 1, -1)
    return torch.cat([sources, bias.to(sources.dtype)], dim=1)
