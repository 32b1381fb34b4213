# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The resizing of some images before they are sliced, in the released training."""

import math

import torch

from ..model.geometry_llava_uhd_v2 import plan_slices


TEXT_VQA_SIDE = 1024
SIX_SLICES_PROBABILITY = 0.1


def pre_resized(height: int, width: int, file_name: str, rule: str, source: torch.Generator) -> tuple[int, int]:
    """The (height, width) that an image is resized to before it is sliced; its own where it is left alone.

    The longer side of an image whose name has "TextVQA" or "textvqa" becomes 1024 pixels (in the permute version,
    only if that makes the image wider). One in ten of the others gets the area of six slices, unless it is cut into
    six already. (Released code.)

    Args:
        height, width: of the image, in pixels.
        file_name: of the image in its record, with folders.
        rule: `"released-permute"` or `"released-sequential"`.
        source: decides which is one of the ten.
    """
    if "TextVQA" in file_name or "textvqa" in file_name:
        resized = longer_side_to(height, width, TEXT_VQA_SIDE)
        return resized if rule == "released-sequential" or resized[1] > width else (height, width)
    drawn = float(torch.rand((), generator=source)) < SIX_SLICES_PROBABILITY
    plan = plan_slices(height, width, max_slices=7, slice_resolution=336, patch_size=14)  # as the released training
    return area_of_six_slices(height, width) if drawn and plan.num_slices != 6 else (height, width)


def longer_side_to(height: int, width: int, side: int) -> tuple[int, int]:
    """The (height, width) of an image whose longer side is scaled to `side` pixels.

    The other side is at least 1 pixel; the released code fails there.

    Args:
        height, width: of the image, in pixels.
        side: in pixels.
    """
    if width > height:
        return max(int(height * (side / width)), 1), side
    return side, max(int(width * (side / height)), 1)


def area_of_six_slices(height: int, width: int) -> tuple[int, int]:
    """The (height, width) of about six times 336 x 336 pixels and of the same shape."""
    ratio = math.sqrt(height * width / (6 * 336**2))
    return max(int(height / ratio), 1), max(int(width / ratio), 1)


__all__ = ["area_of_six_slices", "longer_side_to", "pre_resized"]
