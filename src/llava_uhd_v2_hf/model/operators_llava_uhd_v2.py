# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Up-sampling as matrices: every pixel of a level is a weighted sum of the ViT grid's features.

Up-sampling is linear in the features and the same for every channel, so its matrix can be applied where that is
cheap: before or after a projection, before or after pooling.

Shape letters: v views, c channels, h w the ViT's grid, n = h * w, y x a level's grid (y = 2^l h, x = 2^l w), m = n + j
sources: the features and j constants, t taps.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .resizing_llava_uhd_v2 import keep_constants, resizing_weights
from .upsamplers_vdim_llava_uhd_v2 import RESIDUAL_SCALE, LlavaUhdV2Upsampler, LlavaUhdV2UpsamplerStage, full_precision


# Coarse pixels a side whose finer pixels are made by one matrix product.
TILE = 4


def kernels_reach(kernels: torch.Tensor) -> int:
    return int(kernels.shape[-1] ** 0.5) // 2


@keep_constants(64)
def merging_weights(length: int, kernel_size: int, dtype: torch.dtype) -> torch.Tensor:
    """Bicubic x2 and the taps of a kernel along one axis, as weights of coarse pixels: (2 length, taps, reach).

    Entry (p, t, r) is how much the coarse pixel p // 2 + r - reach has part in what tap t of the finer pixel p reads,
    borders included (reflection, or replication where the axis is too short).
    """
    radius = kernel_size // 2
    reach = (2 * radius + 1) // 4 + 2
    bicubic = resizing_weights(length, 2 * length, "bicubic", dtype, torch.device("cpu"))
    pixels = torch.arange(2 * length, device="cpu")
    read = pixels[:, None] + torch.arange(-radius, radius + 1, device="cpu")
    if 2 * length > radius:
        read = read.abs()
        read = torch.where(read > 2 * length - 1, 2 * (2 * length - 1) - read, read)
    read = read.clamp(0, 2 * length - 1)
    coarse = (pixels // 2)[:, None, None] + torch.arange(-reach, reach + 1, device="cpu")
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


def apply_kernels(kernels: torch.Tensor, coarser: torch.Tensor, first: int = 0) -> torch.Tensor:
    """Sums the coarser pixels around each finer one.

    Args:
        kernels: (v, 2a, 2b, t) from [`merge_kernels`], of all rows of the finer map or of some.
        coarser: (v, y, b, m), all rows of the coarser map.
        first: the coarser row that the first row of `kernels` lies in.

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

    top, bottom = first - reach, first + TILE * down + reach
    rows = coarser[:, max(top, 0) : max(bottom, 0)]
    above = max(-top, 0)
    right, below = TILE * across - width // 2 + reach, bottom - top - above - rows.shape[1]
    patches = F.pad(rows, (0, 0, reach, right, above, below)).unfold(1, side, TILE).unfold(2, side, TILE)
    patches = patches.permute(0, 1, 2, 4, 5, 3).reshape(len(kernels), side**2, -1)
    finer = (matrices @ patches).view(views, down, across, 2 * TILE, 2 * TILE, -1).transpose(2, 3)
    return finer.reshape(views, 2 * TILE * down, 2 * TILE * across, -1)[:, :height, :width]


@keep_constants(8)
def tile_index(reach: int) -> torch.Tensor:
    """Where the taps of each finer pixel of a tile lie in the tile's patch of coarser pixels: (4 TILE², t)."""
    corner = torch.arange(2 * TILE, device="cpu") // 2
    read = corner[:, None] + torch.arange(2 * reach + 1, device="cpu")
    return (read[:, None, :, None] * (TILE + 2 * reach) + read[None, :, None, :]).reshape(4 * TILE**2, -1)


@dataclass
class Level:
    """What the pixels of a level are made of, in float32 at least.

    Args:
        kernels: (v, y, x, t), weights over the coarser level's pixels, from [`merge_kernels`]; None where the level is
            the ViT's grid, or that grid resized.
        sources: (v, m, c), mixed by the level's operator. The last one is a constant: zero, where no fix-up made it.
    """

    kernels: torch.Tensor | None
    sources: torch.Tensor


def find_levels(upsampler: nn.Module, features: torch.Tensor, pixels: torch.Tensor) -> list[Level]:
    """Kernels and sources of every level of the pyramid.

    Fix-ups act on channels, so they are applied to the sources; what they add as a bias becomes a source of its own.

    Args:
        upsampler: [`LlavaUhdV2Upsampler`] or [`LlavaUhdV2BilinearUpsampler`].
        features: (v, c, h, w).
        pixels: (v, 3, patch * h, patch * w).
    """
    height, width = features.shape[-2:]
    sources = full_precision(features).flatten(2).transpose(1, 2)
    levels = [Level(None, F.pad(sources, (0, 0, 0, 1)))]
    if not isinstance(upsampler, LlavaUhdV2Upsampler):
        return levels * (cast(int, upsampler.steps) + 1)
    for index, stage in enumerate(cast(Iterable[LlavaUhdV2UpsamplerStage], upsampler.stages), start=1):
        kernels = merge_kernels(stage.kernels(stage.guidance(pixels, (height << index, width << index))))
        if str(index) in upsampler.fixups:
            sources = fix_up_sources(upsampler, sources, index)
            levels.append(Level(kernels, sources))
        else:
            levels.append(Level(kernels, F.pad(sources, (0, 0, 0, 1))))
    return levels


def build_operators(levels: list[Level], views: slice, grid: tuple[int, int]) -> list[torch.Tensor]:
    """The matrix of every level for some views, (v, y, x, m): level = matrix @ sources. Its last column is one.

    Args:
        levels: from [`find_levels`], or the first of them.
        views: which.
        grid: (h, w) of the ViT.
    """
    operators: list[torch.Tensor] = []
    for index in range(len(levels)):
        operators.append(build_rows(levels, views, grid, operators, slice(0, grid[0] << index)))
    return operators


def build_rows(
    levels: list[Level], views: slice, grid: tuple[int, int], coarser: list[torch.Tensor], rows: slice
) -> torch.Tensor:
    """Some rows of the matrices of the level above those of `coarser`.

    Args:
        levels, views, grid: as [`build_operators`].
        coarser: the matrices of all lower levels.
        rows: begin with an even number.
    """
    index = len(coarser)
    level = levels[index]
    if level.kernels is None:
        like = level.sources
        down, across = (
            resizing_weights(length, length << index, "bilinear", like.dtype, like.device) for length in grid
        )
        operator = (down[rows, None, :, None] * across[:, None, :]).flatten(2)
        operator = operator.expand(len(level.sources[views]), -1, -1, -1)
    else:
        sources = coarser[-1][..., : level.sources.shape[1] - 1]
        operator = apply_kernels(level.kernels[views, rows], sources, rows.start // 2)
    return F.pad(operator, (0, 1), value=1.0)


def fix_up_sources(upsampler: LlavaUhdV2Upsampler, sources: torch.Tensor, level: int) -> torch.Tensor:
    """Applies a level's fix-up to the sources and appends its bias as one more: (v, m, c) -> (v, m + 1, c)."""
    fixup = cast(nn.Linear, upsampler.fixups[str(level)])
    kept = upsampler.dropout(sources.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
    sources = sources + RESIDUAL_SCALE * F.linear(kept, fixup.weight.to(kept.dtype))
    bias = (RESIDUAL_SCALE * fixup.bias.to(kept.dtype)).expand(len(sources), 1, -1)
    return torch.cat([sources, bias], dim=1)
