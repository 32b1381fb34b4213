# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of feature maps: the image, the tower's features and the levels of the pyramid side by side.

Colours are the first three principal components of the tower's features, the same for all maps of a picture or a row.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import nn


PANEL = 280  # longer side of a map, in pixels of the picture
MARGIN, GAP, CAPTION = 16, 10, 26
BACKGROUND, INK = "#ffffff", "#1f2328"
FONT = ImageFont.load_default(size=15)
SPREAD = (0.01, 0.99)  # quantiles of a component that become black and full colour


class Palette(NamedTuple):
    """How features become colours.

    Args:
        axes: (c, 3), the first three principal components.
        centre: (c, 1), the mean.
        low, high: (3, 1), what becomes black and full colour on each axis.
    """

    axes: torch.Tensor
    centre: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def colour(self, maps: torch.Tensor) -> torch.Tensor:
        """(c, h, w) -> (3, h, w) in [0, 1]."""
        scores = self.axes.T @ (maps.flatten(1).double().cpu() - self.centre)
        span = (self.high - self.low).clamp(min=1e-12)
        return ((scores - self.low) / span).clamp(0, 1).float().view(-1, *maps.shape[1:])


def fit_palette(maps: Sequence[torch.Tensor]) -> Palette:
    """The palette of the principal components of all these maps together.

    Args:
        maps: (c, h, w) each, of any resolution.
    """
    points = torch.cat([one.flatten(1).double().cpu() for one in maps], dim=1)
    centre = points.mean(dim=1, keepdim=True)
    _, axes = torch.linalg.eigh((points - centre) @ (points - centre).T)
    axes = axes[:, -3:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()  # the solver's signs are arbitrary
    scores = axes.T @ (points - centre)
    low, high = scores.quantile(torch.tensor(SPREAD, dtype=scores.dtype), dim=1)[..., None]
    return Palette(axes, centre, low, high)


def draw_rows(rows: Sequence[Sequence[tuple[str, torch.Tensor]]]) -> Image.Image:
    """Rows of captioned maps, all maps of a row of one shape: (3, h, w) each, in [0, 1]."""
    return draw_panels([[(caption, enlarge(colours, PANEL)) for caption, colours in row] for row in rows])


def draw_panels(rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> Image.Image:
    """Rows of captioned panels, all panels of a row of one size."""
    widths = [[max(panel.width, math.ceil(FONT.getlength(caption))) for caption, panel in row] for row in rows]
    height = MARGIN + sum(CAPTION + row[0][1].height + MARGIN for row in rows)
    width = 2 * MARGIN + max(sum(row) + GAP * (len(row) - 1) for row in widths)
    picture = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    top = MARGIN
    for row, row_widths in zip(rows, widths, strict=True):
        left = MARGIN
        for (caption, panel), panel_width in zip(row, row_widths, strict=True):
            draw.text((left, top), caption, fill=INK, font=FONT)
            picture.paste(panel, (left, top + CAPTION))
            left += panel_width + GAP
        top += CAPTION + row[0][1].height + MARGIN
    return picture


def enlarge(colours: torch.Tensor, longer_side: int) -> Image.Image:
    """A map as an image, each number a rectangle where it is made larger: (3, h, w), in [0, 1]."""
    image = Image.fromarray((colours * 255).round().byte().permute(1, 2, 0).cpu().numpy())
    factor = longer_side / max(image.size)
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC if factor < 1 else Image.Resampling.NEAREST)


@torch.no_grad()
def pyramid_row(
    upsampler: nn.Module,
    features: torch.Tensor,
    pixels: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    palette: Palette | None = None,
) -> list[tuple[str, torch.Tensor]]:
    """One image, its features, the levels of its pyramid and, for comparison, the top level by bilinear resizing.

    Args:
        upsampler: of a projector, in evaluation mode.
        features: (1, c, h, w), the tower's.
        pixels: (1, 3, H, W), the normalised image.
        mean, std: of the normalisation.
        palette: None for that of the features.
    """
    pyramid = [level[0].float().cpu() for level in upsampler(features, pixels)]
    smooth = F.interpolate(pyramid[0][None], size=pyramid[-1].shape[1:], mode="bilinear", align_corners=False)[0]
    palette = fit_palette(pyramid[:1]) if palette is None else palette
    image = pixels[0].float().cpu() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    sizes = [f"{level.shape[1]}x{level.shape[2]}" for level in pyramid]
    return [
        ("image", image.clamp(0, 1)),
        (f"tower {sizes[0]}", palette.colour(pyramid[0])),
        (f"bilinear {sizes[-1]}", palette.colour(smooth)),
        *((f"level {level} {sizes[level]}", palette.colour(pyramid[level])) for level in range(1, len(pyramid))),
    ]


def guidance_row(pixels: torch.Tensor, patch_size: int, steps: int = 2) -> list[tuple[str, torch.Tensor]]:
    """What guides the up-sampling: the image at the resolution of each level.

    Args:
        pixels: (1, 3, H, W), in [0, 1].
        patch_size: of the tower.
        steps: of up-sampling.
    """
    row = [("image", pixels[0])]
    for level in range(steps + 1):
        height, width = ((side // patch_size) << level for side in pixels.shape[-2:])
        row.append((f"level {level} {height}x{width}", F.adaptive_avg_pool2d(pixels, (height, width))[0]))
    return row
