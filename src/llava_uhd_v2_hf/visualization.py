# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of feature maps: the image, the tower's features and the levels of the pyramid side by side.

Colours are the first three principal components of the tower's features of that image, the same for all its maps.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, PreTrainedModel

from .configuration_llava_uhd_v2 import LlavaUhdV2Config
from .image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from .training.vdim_file import VDIM_NAME, load_vdim
from .training.vdim_recipe import NORMALISATIONS
from .training.vdim_tower import load_tower, tower_features


PANEL = 280  # longer side of a map, in pixels of the picture
MARGIN, GAP, CAPTION = 16, 10, 26
BACKGROUND, INK = "#ffffff", "#1f2328"
FONT = ImageFont.load_default(size=15)
SPREAD = (0.01, 0.99)  # quantiles of a component that become black and full colour


def principal_colours(maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Maps in the colours of the first one's principal components.

    Args:
        maps: (c, h, w) each, of any resolution.

    Returns:
        (3, h, w) each, in [0, 1].
    """
    first = maps[0].flatten(1).double()
    centre = first.mean(dim=1, keepdim=True)
    _, axes = torch.linalg.eigh((first - centre) @ (first - centre).T)
    axes = axes[:, -3:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()  # the solver's signs are arbitrary
    scores = axes.T @ (first - centre)
    low, high = scores.quantile(torch.tensor(SPREAD, dtype=scores.dtype), dim=1)[..., None]
    span = (high - low).clamp(min=1e-12)
    return [
        ((axes.T @ (level.flatten(1).double() - centre) - low) / span).clamp(0, 1).float().view(-1, *level.shape[1:])
        for level in maps
    ]


def draw_rows(rows: Sequence[Sequence[tuple[str, torch.Tensor]]]) -> Image.Image:
    """Rows of captioned maps, all maps of a row of one shape: (3, h, w) each, in [0, 1]."""
    drawn = [[(caption, _enlarge(colours)) for caption, colours in row] for row in rows]
    height = MARGIN + sum(CAPTION + row[0][1].height + MARGIN for row in drawn)
    width = 2 * MARGIN + max(sum(panel.width + GAP for _, panel in row) - GAP for row in drawn)
    picture = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    top = MARGIN
    for row in drawn:
        left = MARGIN
        for caption, panel in row:
            draw.text((left, top), caption, fill=INK, font=FONT)
            picture.paste(panel, (left, top + CAPTION))
            left += panel.width + GAP
        top += CAPTION + row[0][1].height + MARGIN
    return picture


def _enlarge(colours: torch.Tensor) -> Image.Image:
    image = Image.fromarray((colours * 255).round().byte().permute(1, 2, 0).cpu().numpy())
    factor = PANEL / max(image.size)
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC if factor < 1 else Image.Resampling.NEAREST)


@torch.no_grad()
def pyramid_row(
    upsampler: nn.Module, features: torch.Tensor, pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]
) -> list[tuple[str, torch.Tensor]]:
    """One image, its features, the levels of its pyramid and, for comparison, the top level by bilinear resizing.

    Args:
        upsampler: of a projector, in evaluation mode.
        features: (1, c, h, w), the tower's.
        pixels: (1, 3, H, W), the normalised image.
        mean, std: of the normalisation.
    """
    pyramid = [level[0].float().cpu() for level in upsampler(features, pixels)]
    smooth = F.interpolate(pyramid[0][None], size=pyramid[-1].shape[1:], mode="bilinear", align_corners=False)[0]
    colours = principal_colours([*pyramid, smooth])
    image = pixels[0].float().cpu() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    sizes = [f"{level.shape[1]}x{level.shape[2]}" for level in pyramid]
    return [
        ("image", image.clamp(0, 1)),
        (f"tower {sizes[0]}", colours[0]),
        (f"bilinear {sizes[-1]}", colours[-1]),
        *((f"level {level} {sizes[level]}", colours[level]) for level in range(1, len(pyramid))),
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


def draw_pyramid(image: Image.Image, model: str | None) -> Image.Image:
    """The pyramid of an image's overview.

    Args:
        image: RGB.
        model: folder or Hub id of a LLaVA-UHD v2 checkpoint, or folder or file of a VDIM pre-training. None for the
            pixels that guide the up-sampling of the default model, which need no weights.

    Raises:
        OSError, ValueError: if the model can't be loaded.
    """
    if model is None:
        processor = LlavaUhdV2ImageProcessor(image_mean=[0.0] * 3, image_std=[1.0] * 3)
        return draw_rows([guidance_row(overview(image, processor), processor.patch_size)])
    written = Path(model).is_file() or (Path(model) / VDIM_NAME).is_file()
    tower, upsampler, processor, config = _load_pretraining(model) if written else _load_checkpoint(model)
    pixels = overview(image, processor)
    with torch.no_grad():
        features = tower_features(tower, pixels.to(tower.dtype), config)
    row = pyramid_row(upsampler, features, pixels.to(features.dtype), processor.image_mean, processor.image_std)
    return draw_rows([row])


Parts = tuple[PreTrainedModel, nn.Module, LlavaUhdV2ImageProcessor, LlavaUhdV2Config]


def _load_pretraining(source: str) -> Parts:
    upsampler, facts = load_vdim(source)
    tower, config = load_tower(facts.tower, facts.vision_feature_layer)
    mean, std = NORMALISATIONS[facts.normalisation]
    processor = LlavaUhdV2ImageProcessor(
        patch_size=facts.patch_size, slice_resolution=facts.crop_size, image_mean=mean, image_std=std
    )
    return tower, upsampler, processor, config


def _load_checkpoint(source: str) -> Parts:
    config = AutoConfig.from_pretrained(source)
    if not isinstance(config, LlavaUhdV2Config):
        raise ValueError(f"{source} holds a model of type `{config.model_type}`, which has no pyramid.")
    visual = AutoModelForImageTextToText.from_pretrained(source, dtype="auto").eval().model.visual
    return visual.vision_tower, visual.projector.upsampler, AutoImageProcessor.from_pretrained(source), config


def overview(image: Image.Image, processor: LlavaUhdV2ImageProcessor) -> torch.Tensor:
    """The whole image at the size of its overview, normalised: (1, 3, H, W)."""
    height, width = processor.slice_plan(image.height, image.width).overview_size
    pixels = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    return (torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 - mean) / std
