# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Resizing of maps as two matrix products: the numbers of `F.interpolate` in less time, with reproducible gradients.

PyTorch's own kernels go through views and channels one after the other, on CUDA in one thread for each pixel.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Literal

import torch
import torch.nn.functional as F
from transformers.utils import is_torchdynamo_exporting
from transformers.utils.generic import maybe_autocast


def full_precision(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cache_constants(count: int) -> Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]]:
    """Keeps `count` tensors that a function makes of its arguments alone; compiled code has them made anew."""

    def decorate(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        make = torch.inference_mode(False)(function)
        cached = lru_cache(maxsize=count)(make)

        @wraps(function)
        def call(*arguments) -> torch.Tensor:
            return make(*arguments) if is_torchdynamo_exporting() else cached(*arguments)

        return call

    return decorate


@cache_constants(64)
def resizing_weights(
    length: int, size: int, mode: Literal["bicubic", "bilinear"], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """What every new pixel of an axis is made of: (size, length)."""
    identity = torch.eye(length, dtype=dtype, device=device).view(1, length, length, 1)
    return F.interpolate(identity, (size, 1), mode=mode, align_corners=False)[0, :, :, 0].T.contiguous()


def resize(maps: torch.Tensor, size: tuple[int, int], mode: Literal["bicubic", "bilinear"]) -> torch.Tensor:
    """As `F.interpolate` without aligned corners, in the dtype of `maps` whatever autocast says.

    Products have the precision that torch is set to: with TF32 the numbers have its rounding.

    Args:
        maps: (..., h, w), float32 or float64.
        size: (y, x), the new grid.
        mode: `"bicubic"` or `"bilinear"`.

    Returns:
        (..., y, x).
    """
    down, across = (
        resizing_weights(length, new, mode, maps.dtype, maps.device)
        for length, new in zip(maps.shape[-2:], size, strict=True)
    )
    with maybe_autocast(maps.device.type, enabled=False):
        return down @ (maps @ across.T)
