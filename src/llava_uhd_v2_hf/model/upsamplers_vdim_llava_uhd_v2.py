# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Visual detail injection: from one ViT feature map to the inverse semantic pyramid (paper 3.2 and A.2).

Shape letters: v views, c channels, h w grid of a level, t = k * k taps of a k * k neighbourhood.
"""

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .configuration_llava_uhd_v2 import LlavaUhdV2ProjectorConfig
from .initial_weights_llava_uhd_v2 import reset_linear
from .operators_llava_uhd_v2 import Level, map_sources, merge_kernels
from .plain_layers_llava_uhd_v2 import call_linear
from .resizing_llava_uhd_v2 import full_precision, resize


# Constants of the released code; the paper's equations (6) to (8) have neither residuals nor clamps.
RESIDUAL_SCALE = 0.1
TEMPERATURE_RANGE = (1e-4, 1e4)
SMALLEST_KERNEL_SUM = 1e-7


def pad_by_reflection(maps: torch.Tensor, radius: int) -> torch.Tensor:
    """Pads (v, c, h, w) by `radius` on each side; replicates along an axis too short to be reflected."""
    height, width = maps.shape[-2:]
    maps = F.pad(maps, (radius, radius, 0, 0), mode="reflect" if width > radius else "replicate")
    return F.pad(maps, (0, 0, radius, radius), mode="reflect" if height > radius else "replicate")


def neighbours(maps: torch.Tensor, kernel_size: int):
    """Yields the neighbours of every pixel, tap by tap in row-major order, each (v, c, h, w) like `maps`."""
    height, width = maps.shape[-2:]
    padded = pad_by_reflection(maps, kernel_size // 2)
    for row in range(kernel_size):
        for column in range(kernel_size):
            yield padded[..., row : row + height, column : column + width]


class LlavaUhdV2ChannelDropout(nn.Dropout2d, nn.Dropout):
    """`nn.Dropout2d` for programs that switch every `nn.Dropout` off, as TRL does."""


class LlavaUhdV2UpsamplerStage(nn.Module):
    """Doubles the resolution of feature maps with a kernel that the pixels choose (paper A.2, eq. 6 to 8).

    Beyond the paper, as in the released code: a residual network corrects the kernel, the temperature and the kernel's
    sum are clamped, and distances are measured on [-1, 1] across the neighbourhood.
    """

    def __init__(self, config: LlavaUhdV2ProjectorConfig):
        super().__init__()
        taps = config.upsampler_kernel_size**2
        self.kernel_size = config.upsampler_kernel_size
        # one element each, not scalars: sharding wants a dimension
        self.range_temperature = nn.Parameter(torch.zeros(1))
        self.spatial_width = nn.Parameter(torch.ones(1))
        self.range_in = nn.Conv2d(3, config.upsampler_guidance_size, 1)
        self.range_out = nn.Conv2d(config.upsampler_guidance_size, config.upsampler_guidance_size, 1)
        self.residual_in = nn.Conv2d(taps + 3, taps, 1)
        self.residual_out = nn.Conv2d(taps, taps, 1)
        self.dropout = LlavaUhdV2ChannelDropout(config.upsampler_dropout)

    def reset_parameters(self):
        """Initialises the stage: temperature 0, width 1, convolutions as PyTorch does by default (released code)."""
        init.zeros_(self.range_temperature)
        init.ones_(self.spatial_width)
        for convolution in (self.range_in, self.range_out, self.residual_in, self.residual_out):
            bound = 1 / math.sqrt(convolution.in_channels)
            init.uniform_(convolution.weight, -bound, bound)
            init.uniform_(convolution.bias, -bound, bound)

    def range_weights(self, guidance: torch.Tensor) -> torch.Tensor:
        """Softmax over the similarities of each pixel with its neighbours: (v, 3, h, w) -> (v, t, h, w), eq. 8."""
        projected = full_precision(self.range_out(self.dropout(F.gelu(self.range_in(guidance)))))
        similarities = [(projected * neighbour).sum(1) for neighbour in neighbours(projected, self.kernel_size)]
        temperature = full_precision(self.range_temperature).exp().clamp(*TEMPERATURE_RANGE)
        return (temperature * torch.stack(similarities, dim=1)).softmax(dim=1)

    def spatial_weights(self) -> torch.Tensor:
        """Decay with the distance from the centre: (t, 1, 1), eq. 7."""
        width = full_precision(self.spatial_width)
        offsets = torch.linspace(-1, 1, self.kernel_size, device=width.device, dtype=width.dtype)
        squared_distances = offsets[:, None] ** 2 + offsets[None, :] ** 2
        decay = torch.exp(-squared_distances / (2 * width**2))
        return decay.flatten()[:, None, None]

    def kernels(self, guidance: torch.Tensor) -> torch.Tensor:
        """The weights of each pixel's neighbours, in float32: (v, 3, h, w) -> (v, t, h, w)."""
        kernels = self.range_weights(guidance) * self.spatial_weights()
        kernels = kernels / kernels.sum(dim=1, keepdim=True).clamp(min=SMALLEST_KERNEL_SUM)
        residual = torch.cat([kernels.to(guidance.dtype), guidance], dim=1)
        residual = self.residual_out(self.dropout(F.gelu(self.residual_in(residual))))
        return kernels + RESIDUAL_SCALE * full_precision(residual)

    def guidance(self, pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The pixels at a level's resolution, in the dtype of the weights: (v, 3, H, W) -> (v, 3, h, w)."""
        return F.adaptive_avg_pool2d(full_precision(pixels), size).to(self.range_in.weight.dtype)

    def forward(self, features: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """
        Args:
            features: (v, c, h, w).
            pixels: (v, 3, patch * h0, patch * w0), the normalised views, whatever the level.

        Returns:
            (v, c, 2h, 2w) in the dtype of `features`.
        """
        height, width = 2 * features.shape[-2], 2 * features.shape[-1]
        kernels = self.kernels(self.guidance(pixels, (height, width)))
        finer = resize(full_precision(features), (height, width), "bicubic")
        mixed = torch.zeros_like(finer)
        for tap, neighbour in enumerate(neighbours(finer, self.kernel_size)):
            mixed.addcmul_(kernels[:, tap : tap + 1], neighbour)
        return mixed.to(features.dtype)


class LlavaUhdV2Upsampler(nn.Module):
    """Visual detail injection module: stages of x2 up-sampling that build the inverse semantic pyramid (paper 3.2).

    A 1x1 fix-up corrects the top level; in the three-step stack it corrects every level, before the next step
    (released code).
    """

    def __init__(self, config: LlavaUhdV2ProjectorConfig, channels: int):
        super().__init__()
        steps = max(config.levels)
        self.stages = nn.ModuleList(LlavaUhdV2UpsamplerStage(config) for _ in range(steps))
        corrected = range(1, steps + 1) if steps == 3 else range(max(steps, 1), steps + 1)
        self.fixups = nn.ModuleDict({str(level): nn.Linear(channels, channels) for level in corrected})
        self.dropout = LlavaUhdV2ChannelDropout(config.fixup_dropout)

    def reset_parameters(self):
        """Initialises the stages, and the fix-ups as PyTorch does by default (released code)."""
        for stage in cast(Iterable[LlavaUhdV2UpsamplerStage], self.stages):
            stage.reset_parameters()
        reset_linear(cast(Iterable[nn.Linear], self.fixups.values()))

    def fix_up(self, features: torch.Tensor, level: int) -> torch.Tensor:
        """Adds a tenth of a linear map of the channels, where the level has one: (v, c, h, w) -> (v, c, h, w)."""
        if str(level) not in self.fixups:
            return features
        pixels = self.dropout(features).flatten(2).mT  # quantised layers take three dimensions at most
        correction = call_linear(self.fixups[str(level)], pixels).mT.unflatten(2, features.shape[-2:])
        return features + RESIDUAL_SCALE * correction

    def forward(self, features: torch.Tensor, pixels: torch.Tensor) -> list[torch.Tensor]:
        """
        Args:
            features: (v, c, h, w), level 0.
            pixels: (v, 3, patch * h, patch * w), the normalised views.

        Returns:
            Every level from 0 to the highest: (v, c, 2^l h, 2^l w).
        """
        pyramid = [features]
        for level, stage in enumerate(self.stages, start=1):
            pyramid.append(self.fix_up(stage(pyramid[-1], pixels), level))
        return pyramid

    def linear_levels(self, features: torch.Tensor, pixels: torch.Tensor) -> list[Level]:
        """Returns every level as an operator and its sources.

        Fix-ups act on channels, so they are applied to the sources; what they add as a bias becomes a source of its
        own.

        Args:
            features: (v, c, h, w), level 0.
            pixels: (v, 3, patch * h, patch * w), the normalised views.
        """
        height, width = features.shape[-2:]
        levels = [Level(map_sources(features))]
        sources = levels[0].sources[:, :-1]
        for index, stage in enumerate(cast(Iterable[LlavaUhdV2UpsamplerStage], self.stages), start=1):
            kernels = merge_kernels(stage.kernels(stage.guidance(pixels, (height << index, width << index))))
            if str(index) in self.fixups:
                sources = self.fix_up_sources(sources, index)
                levels.append(Level(sources, kernels))
            else:
                levels.append(Level(F.pad(sources, (0, 0, 0, 1)), kernels))
        return levels

    def fix_up_sources(self, sources: torch.Tensor, level: int) -> torch.Tensor:
        """Applies a level's fix-up to the sources and appends its bias as one more: (v, m, c) -> (v, m + 1, c)."""
        fixup = cast(nn.Linear, self.fixups[str(level)])
        dropped = self.dropout(sources.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
        sources = sources + RESIDUAL_SCALE * F.linear(dropped, fixup.weight.to(dropped.dtype))
        bias = (RESIDUAL_SCALE * fixup.bias.to(dropped.dtype)).expand(len(sources), 1, -1)
        return torch.cat([sources, bias], dim=1)


__all__ = [
    "LlavaUhdV2ChannelDropout",
    "LlavaUhdV2Upsampler",
    "LlavaUhdV2UpsamplerStage",
]
