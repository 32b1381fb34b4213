# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Up-sampling as matrices: every pixel of a level is a weighted sum of the ViT grid's features.

Up-sampling is linear in the features and the same for every channel, so its matrix can be applied where that is
cheap: before or after a projection, before or after pooling.

Shape letters: v views, c channels, h w the ViT's grid, n = h * w, y x a level's grid (y = 2^l h, x = 2^l w), m = n + j
sources: the features and j constants, t taps.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .resizing_llava_uhd_v2 import cache_constants, full_precision, resizing_weights


# Coarse pixels a side whose finer pixels are made by one matrix product.
TILE = 4


def kernels_reach(kernels: torch.Tensor) -> int:
    return int(kernels.shape[-1] ** 0.5) // 2


@cache_constants(64)
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


@cache_constants(8)
def tile_index(reach: int) -> torch.Tensor:
    """Where the taps of each finer pixel of a tile lie in the tile's patch of coarser pixels: (4 TILE², t)."""
    corner = torch.arange(2 * TILE, device="cpu") // 2
    read = corner[:, None] + torch.arange(2 * reach + 1, device="cpu")
    return (read[:, None, :, None] * (TILE + 2 * reach) + read[None, :, None, :]).reshape(4 * TILE**2, -1)


@dataclass
class Level:
    """What the pixels of a level are made of, in float32 at least.

    The level is a matrix product, operator @ sources. The operator is given by `kernels` or by `axes`; level 0 needs
    neither.

    Args:
        sources: (v, m, c). The last one is a constant, zero where nothing is added; the others are those of the level
            below and, where a bias was added to that one, its constant.
        kernels: (v, y, x, t), weights over the pixels of the level below, from [`merge_kernels`].
        axes: (y, h) and (x, w), weights over the rows and the columns of the ViT's grid, the same for every view; the
            sources are then the n features and the constant.
    """

    sources: torch.Tensor
    kernels: torch.Tensor | None = None
    axes: tuple[torch.Tensor, torch.Tensor] | None = None


def map_sources(features: torch.Tensor) -> torch.Tensor:
    """Returns the sources of a level to which nothing is added: (v, c, h, w) -> (v, n + 1, c), the last one zero."""
    return F.pad(full_precision(features).flatten(2).transpose(1, 2), (0, 0, 0, 1))


def build_operators(levels: list[Level], views: slice, grid: tuple[int, int]) -> list[torch.Tensor]:
    """The matrix of every level for some views, (v, y, x, m): level = matrix @ sources. Its last column is one.

    Args:
        levels: of an up-sampler's `linear_levels`, or the first of them.
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
        coarser: the matrices of all lower levels, each (v, y, x, m).
        rows: begin with an even number.

    Returns:
        (v, rows, x, m).
    """
    index = len(coarser)
    level = levels[index]
    if level.kernels is None:
        like = level.sources
        down, across = level.axes or (
            resizing_weights(length, length, "bilinear", like.dtype, like.device) for length in grid
        )
        operator = (down[rows, None, :, None] * across[:, None, :]).flatten(2)
        operator = operator.expand(len(level.sources[views]), -1, -1, -1)
    else:
        sources = coarser[-1][..., : level.sources.shape[1] - 1]
        operator = apply_kernels(level.kernels[views, rows], sources, rows.start // 2)
    return F.pad(operator, (0, 1), value=1.0)


__all__ = ["Level", "apply_kernels", "build_operators", "build_rows", "map_sources", "merge_kernels"]
