# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The random numbers of VDIM pre-training, drawn image by image from a number that comes with the image.

So a step is the same however many processes share it, and after a resume. Shape letters: b images, c channels,
k projected channels, n points, h w patch grid.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ....utils.seeds import generator
from .recipe import VdimLoss


@dataclass(frozen=True)
class Jitter:
    """A view of a square image: padded by reflection, enlarged, cropped to the old size, mirrored.

    Args:
        zoom: factor of the enlargement, at least 1.
        row, column: where the crop begins, in pixels of the padded and enlarged image.
        flip: whether left and right change places.
    """

    zoom: float = 1.0
    row: int = 0
    column: int = 0
    flip: bool = False


@dataclass
class JitterDraws:
    """Everything that is random in one jitter of a batch, except the dropouts.

    Attributes:
        jitters: one an image.
        projections: (b, c, k) with columns of length 1, or None for no projection.
        masks: for each level (b, h, w), 1 where the down-sampler's saliency counts, else 0.
        points: for each level the rows and columns of the CRF term's pixels, (b, n) each; empty without that term.
    """

    jitters: list[Jitter]
    projections: torch.Tensor | None
    masks: dict[int, torch.Tensor]
    points: dict[int, tuple[torch.Tensor, torch.Tensor]]


def draw_jitter(
    seeds: Sequence[int],
    index: int,
    loss: VdimLoss,
    *,
    channels: int,
    levels: Sequence[int],
    grid: int,
    size: int,
    device: Any = "cpu",
) -> JitterDraws:
    """The draws of jitter `index` (from 0) of a batch.

    Args:
        seeds: the number of each image.
        loss: what is random, and how much.
        channels: of the tower.
        levels: those that are reconstructed.
        grid: side of the patch grid.
        size: side of the images, in pixels.
        device: where the tensors go; they are drawn on the CPU.
    """
    sources = [generator(seed, index) for seed in seeds]
    jitters = [_draw_transform(source, loss, size) for source in sources]
    projections = None
    if loss.projection_size is not None:
        drawn = [torch.randn(channels, loss.projection_size, generator=source) for source in sources]
        projections = F.normalize(torch.stack(drawn), dim=1).to(device)
    masks, points = {}, {}
    for level in levels:
        uniform = torch.stack([torch.rand(grid, grid, generator=source) for source in sources])
        masks[level] = (uniform >= loss.mask_rate).float().to(device)
        if index == 0 and loss.crf_weight:
            drawn = [torch.randint(size, (2, loss.crf_points), generator=source) for source in sources]
            rows, columns = torch.stack(drawn, dim=1).to(device)
            points[level] = (rows, columns)
    return JitterDraws(jitters, projections, masks, points)


def _draw_transform(source: torch.Generator, loss: VdimLoss, size: int) -> Jitter:
    def uniform() -> float:
        return float(torch.rand((), generator=source))

    zoom = 1 + uniform() * (loss.max_zoom - 1) if uniform() < 0.5 else 1.0
    places = int((size + 2 * loss.max_pad) * zoom) - size + 1
    row, column = (int(torch.randint(places, (), generator=source)) for _ in range(2))
    return Jitter(zoom, row, column, loss.flip and uniform() < 0.5)


class ImageDropout(nn.Module):
    """Dropout that draws the mask of each image from the image's own generator, see [`image_dropouts`].

    Args:
        rate: share of what is dropped.
        channels: whether whole channels are dropped, as by `nn.Dropout2d`.
    """

    def __init__(self, rate: float, *, channels: bool):
        super().__init__()
        self.rate = rate
        self.channels = channels
        self.sources: list[torch.Generator] = []

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        if not self.training or not self.rate:
            return maps
        shape = (maps.shape[1], 1, 1) if self.channels else maps.shape[1:]
        masks = [torch.rand(shape, generator=source, device=source.device) >= self.rate for source in self.sources]
        return maps * torch.stack(masks).to(maps) / (1 - self.rate)


def replace_dropouts(module: nn.Module) -> None:
    """Makes every `nn.Dropout2d` in a module draw image by image."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout2d):
                setattr(parent, name, ImageDropout(child.p, channels=True))


@contextmanager
def image_dropouts(module: nn.Module, seeds: Sequence[int], index: int, device: Any) -> Iterator[None]:
    """Gives each image of a batch its generator in all of the module's dropouts."""
    dropouts = [child for child in module.modules() if isinstance(child, ImageDropout)]
    for place, dropout in enumerate(dropouts):
        dropout.sources = [generator(seed, index, place + 1, device=device) for seed in seeds]
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.sources = []
