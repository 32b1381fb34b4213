# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The multi-level reconstruction objective of the up-sampler (paper 3.2, eq. 2, and A.2, eq. 9).

Shape letters: b images, c channels, k projected channels, n points, h w patch grid, s side of an image in pixels.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ....model.upsamplers_vdim_llava_uhd_v2 import LlavaUhdV2Upsampler, full_precision
from .draws import ImageDropout, Jitter, JitterDraws
from .recipe import VdimLoss


# Constants of the released code.
BLUR_TAPS, BLUR_WIDTH = 5, 1.0
FIRST_LOG_SCALE, SMALLEST_SCALE = 0.1, 1e-4
CRF_NEAR_AND_ALIKE = (10.0, 0.2, 0.3)  # weight, widths of position and colour
CRF_NEAR = (3.0, 0.01)  # weight, width of position


def blur(maps: torch.Tensor) -> torch.Tensor:
    """Gaussian blur, reflected at the border: (b, c, s, s) -> (b, c, s, s)."""
    radius, (height, width) = BLUR_TAPS // 2, maps.shape[-2:]
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=torch.float32)
    weights = torch.exp(-offsets.square() / (2 * BLUR_WIDTH**2))
    taps = (weights / weights.sum()).tolist()
    padded = F.pad(maps, (radius,) * 4, mode="reflect")
    rows = sum(tap * padded[..., start : start + height, :] for start, tap in enumerate(taps))
    return sum(tap * rows[..., start : start + width] for start, tap in enumerate(taps))


class AttentionDownsampler(nn.Module):
    """From pixels back to patches: a mean over each patch, weighted by how salient a pixel is (paper eq. 9).

    The weights are a softmax over the patch of `scale * saliency + offset`, with one scale and one offset for every
    place in a patch. Beyond the paper, as in the released code: a blur, a dropout, and patches whose saliency is
    left out.
    """

    def __init__(self, channels: int, patch_size: int, *, blur: bool = True, dropout: float = 0.2):
        super().__init__()
        self.patch_size = patch_size
        self.blur = blur
        self.dropout = ImageDropout(dropout, channels=False)
        self.saliency = nn.Linear(channels, 1)
        self.scales = nn.Parameter(1 + 0.01 * torch.randn(patch_size, patch_size))
        self.offsets = nn.Parameter(0.01 * torch.randn(patch_size, patch_size))

    def forward(self, maps: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            maps: (b, c, patch * h, patch * w).
            mask: (b, h, w), 0 where the saliency is left out, else 1; None for 1 everywhere.

        Returns:
            (b, c, h, w).
        """
        if self.blur:
            maps = blur(maps)
        patch, (height, width) = self.patch_size, maps.shape[-2:]
        saliency = F.conv2d(self.dropout(maps), self.saliency.weight[:, :, None, None], self.saliency.bias)
        weights = F.pixel_unshuffle(full_precision(saliency), patch)  # (b, patch * patch, h, w)
        if mask is not None:
            weights = weights * mask[:, None]
        weights = weights * self.scales.flatten()[:, None, None] + self.offsets.flatten()[:, None, None]
        weights = F.pixel_shuffle(weights.softmax(dim=1), patch)
        weighted = (maps * weights).unflatten(3, (width // patch, patch)).sum(4)
        return weighted.unflatten(2, (height // patch, patch)).sum(3)


class Uncertainty(nn.Module):
    """Predicts from a patch's features how far off its reconstruction will be (released code)."""

    def __init__(self, channels: int):
        super().__init__()
        self.log_scale = nn.Linear(channels, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(0.1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, 1, h, w), positive."""
        log_scale = full_precision(self.log_scale(features.movedim(1, -1)).movedim(-1, 1))
        return (log_scale + FIRST_LOG_SCALE).exp().clamp(min=SMALLEST_SCALE)


def axis_operator(length: int, size: int, pad: int, zoom: float, start: int, flip: bool) -> torch.Tensor:
    """One axis of a jittered view as a matrix, (size, length): stretch to `size`, pad, enlarge, crop, mirror."""
    line = torch.eye(length)[None]
    line = F.interpolate(line, size=size, mode="linear", align_corners=False)
    line = F.pad(line, (pad, pad), mode="reflect") if pad else line
    if zoom > 1:
        line = F.interpolate(line, scale_factor=zoom, mode="linear", align_corners=False)
    line = line[0, :, start : start + size]
    return (line.flip(1) if flip else line).T


def jittered_views(maps: torch.Tensor, jitters: list[Jitter], size: int, pad: int) -> torch.Tensor:
    """Maps of any resolution, resized to the image bilinearly and seen through each image's jitter.

    Both are linear and act on rows and columns apart: two matrices an image say all.

    Args:
        maps: (b, c, h, h).
        jitters: one an image.
        size: side of the image in pixels.
        pad: pixels of padding before the crop.

    Returns:
        (b, c, size, size).
    """
    length = maps.shape[-1]
    rows = [axis_operator(length, size, pad, jitter.zoom, jitter.row, False) for jitter in jitters]
    columns = [axis_operator(length, size, pad, jitter.zoom, jitter.column, jitter.flip) for jitter in jitters]
    left, right = (torch.stack(operators).to(maps)[:, None] for operators in (rows, columns))
    return left @ (maps @ right.transpose(-1, -2))


def project(maps: torch.Tensor, projections: torch.Tensor | None) -> torch.Tensor:
    """Channels in random directions: (b, c, h, w), (b, c, k) -> (b, k, h, w)."""
    return maps if projections is None else torch.einsum("bchw,bck->bkhw", maps, projections.to(maps))


def reconstruction_loss(
    reconstructed: torch.Tensor, features: torch.Tensor, scale: torch.Tensor | None
) -> torch.Tensor:
    """Mean squared error, or the negative log-likelihood of a Gaussian whose width is `scale` (b, 1, h, w)."""
    errors = (full_precision(reconstructed) - full_precision(features)).square()
    if scale is None:
        return errors.mean()
    return (errors / (2 * scale.square()) + scale.log()).mean()


def squared_distances(points: torch.Tensor) -> torch.Tensor:
    """Of all pairs of points: (b, c, n) -> (b, n, n)."""
    products = points.transpose(1, 2) @ points
    lengths = products.diagonal(dim1=1, dim2=2)
    return (lengths[:, :, None] + lengths[:, None] - 2 * products).clamp(min=0)


def crf_loss(pixels: torch.Tensor, sampled: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Features of pixels that are near each other, or near and alike, should be alike (released code).

    Args:
        pixels: (b, 3, height, width), the normalised images.
        sampled: (b, c, n), the features at the points.
        rows, columns: (b, n), the points.
    """
    height, width = pixels.shape[-2:]
    positions = torch.stack([rows / height, columns / width], dim=1)
    distances, colours = squared_distances(positions), squared_distances(sample(full_precision(pixels), rows, columns))
    weight, position_width, colour_width = CRF_NEAR_AND_ALIKE
    kernel = weight * torch.exp(-distances / position_width - colours / colour_width)
    weight, position_width = CRF_NEAR
    kernel = kernel + weight * torch.exp(-distances / position_width)
    return (squared_distances(full_precision(sampled)) * kernel).mean()


def sample(maps: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The maps at points: (b, c, height, width), (b, n), (b, n) -> (b, c, n)."""
    places = (rows * maps.shape[-1] + columns)[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, places)


class VdimObjective(nn.Module):
    """The up-sampler with all that is trained beside it, and thrown away afterwards."""

    def __init__(self, upsampler: LlavaUhdV2Upsampler, loss: VdimLoss, channels: int, patch_size: int):
        super().__init__()
        self.upsampler = upsampler
        self.loss = loss
        self.levels = tuple(range(1, len(upsampler.stages) + 1))
        self.downsamplers = nn.ModuleDict(
            {
                str(level): AttentionDownsampler(channels, patch_size, blur=loss.blur, dropout=loss.saliency_dropout)
                for level in self.levels
            }
        )
        uncertain = self.levels if loss.uncertainty else ()
        self.uncertainties = nn.ModuleDict({str(level): Uncertainty(channels) for level in uncertain})

    def pyramid(self, features: torch.Tensor, pixels: torch.Tensor) -> dict[int, torch.Tensor]:
        """Levels 1 and up; each step's gradient stays its own where `stop_gradient` is set."""
        levels = {0: features}
        for level in self.levels:
            coarser = levels[level - 1].detach() if self.loss.stop_gradient else levels[level - 1]
            stage = self.upsampler.stages[level - 1]
            levels[level] = self.upsampler.fix_up(stage(coarser, pixels), level)
        del levels[0]
        return levels

    def forward(
        self, pixels: torch.Tensor, features: torch.Tensor, jittered_features: torch.Tensor, draws: JitterDraws
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of one jitter.

        Args:
            pixels: (b, 3, s, s), the normalised images.
            features: (b, c, h, w), what the tower makes of them.
            jittered_features: (b, c, h, w), what it makes of their jittered views.
            draws: the jitter, and all else that is random.

        Returns:
            The loss, and its parts by name: "rec_2x" for level 1, and so on.
        """
        loss, parts = torch.zeros((), device=pixels.device), {}
        target = project(jittered_features, draws.projections)
        for level, finer in self.pyramid(features, pixels).items():
            views = jittered_views(finer, draws.jitters, pixels.shape[-1], self.loss.max_pad)
            reconstructed = project(self.downsamplers[str(level)](views, draws.masks[level]), draws.projections)
            scale = self.uncertainties[str(level)](jittered_features) if self.loss.uncertainty else None
            part = reconstruction_loss(reconstructed, target, scale) / self.loss.jitters
            loss, parts[f"rec_{2**level}x"] = loss + part, part.detach()
            if level in draws.points:
                rows, columns = draws.points[level]
                sampled = project(sample(views, rows, columns)[..., None], draws.projections)[..., 0]
                part = crf_loss(pixels, sampled, rows, columns)
                loss, parts[f"crf_{2**level}x"] = loss + self.loss.crf_weight * part, part.detach()
        return loss, parts
