# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The pyramids of all views of an image: the slices put together again, and the overview.

All views have the same colours, so that what is alike in two of them looks alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageTextToText, PreTrainedModel

from ..data.normalisation import NORMALISATIONS
from ..inference.adapter_fit import weights_that_fit
from ..inference.checkpoints import check_checkpoint
from ..inference.inspection import count_of
from ..inference.towers import load_tower, tower_features
from ..inference.vdim_file import VDIM_NAME, load_vdim
from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.geometry_llava_uhd_v2 import SlicePlan
from ..model.image_loading_llava_uhd_v2 import read_rgb
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor, OneImage, cut_views
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from .feature_maps import BACKGROUND, draw_panels, enlarge, fit_palette, guidance_row, pyramid_row


# longer side of a panel in pixels of the picture: of an image up to twice as long as wide, of a tall and of a wide one
SIDE, TALL_SIDE, WIDE_SIDE = 400, 640, 960
SEAM = 3  # between two slices
Row = list[tuple[str, torch.Tensor]]  # captions and (3, h, w) maps


@dataclass(frozen=True)
class PyramidParts:
    """What makes pyramids of images.

    Args:
        image_processor: cuts and normalises.
        config: says which features of the tower are read.
        tower, upsampler: None for the pixels that guide the up-sampling, which need no weights.
    """

    image_processor: LlavaUhdV2ImageProcessor
    config: LlavaUhdV2Config
    tower: PreTrainedModel | None = None
    upsampler: nn.Module | None = None

    @classmethod
    def of_model(
        cls, model: LlavaUhdV2ForConditionalGeneration, image_processor: LlavaUhdV2ImageProcessor
    ) -> "PyramidParts":
        """Returns those of a whole model, in evaluation mode.

        Raises:
            ValueError: if the model's projector has no up-sampler.
        """
        visual = model.model.visual
        if not hasattr(visual.projector, "upsampler"):
            kind = model.config.projector_config.projector_type
            raise ValueError(f"A model whose projector is of type `{kind}` has no feature pyramid to draw.")
        return cls(image_processor, model.config, visual.vision_tower, visual.projector.upsampler)


def load_pyramid(source: str | None) -> PyramidParts:
    """
    Args:
        source: folder or Hub id of a LLaVA-UHD v2 checkpoint, or folder or file of a VDIM pre-training. None for the
            pixels that guide the up-sampling of the default model.

    Raises:
        OSError, ValueError: if the model can't be loaded.
    """
    if source is None:
        return PyramidParts(LlavaUhdV2ImageProcessor(image_mean=[0.0] * 3, image_std=[1.0] * 3), LlavaUhdV2Config())
    if not Path(source).is_file() and not (Path(source) / VDIM_NAME).is_file():
        check_checkpoint(source)
        with weights_that_fit(source):
            model = AutoModelForImageTextToText.from_pretrained(source, dtype="auto").eval()
        return PyramidParts.of_model(model, AutoImageProcessor.from_pretrained(source))
    upsampler, facts = load_vdim(source)
    tower, config = load_tower(facts.tower, facts.vision_feature_layer)
    mean, std = NORMALISATIONS[facts.normalisation]
    processor = LlavaUhdV2ImageProcessor(
        patch_size=facts.patch_size, slice_resolution=facts.crop_size, image_mean=mean, image_std=std
    )
    return PyramidParts(processor, config, tower, upsampler)


def draw_pyramid(image: OneImage, parts: PyramidParts, max_slices: int | None = None) -> Image.Image:
    """The pyramids of the slices, in their grid, and of the overview; of a wide image one panel below the other.

    Args:
        image: in any form that the image processor takes.
        parts: see [`load_pyramid`].
        max_slices: largest number of slices; None is the processor's own.

    Raises:
        ValueError: if the image can't be used or `max_slices` is less than 1.
    """
    processor = parts.image_processor
    image = read_rgb(image, max_pixels=processor.max_image_pixels, alpha=processor.alpha)
    settings = {} if max_slices is None else {"max_slices": max_slices}
    plan = processor.slice_plan(image.height, image.width, settings)
    views = cut_views(image, plan, processor.resample)
    rows = draw_views([normalise(view, processor) for view in views], parts)

    ratio = image.width / image.height
    side = TALL_SIDE if ratio < 1 / 2 else WIDE_SIDE if ratio > 2 else SIDE
    panels = [join_slices(rows[:-1], plan, side), [(caption, enlarge(view, side)) for caption, view in rows[-1]]]
    panels[-1][0] = ("overview", panels[-1][0][1])
    shown = [row for row in panels if row]
    return draw_panels([[panel] for row in shown for panel in row] if side == WIDE_SIDE else shown)


def normalise(view: Image.Image, image_processor: LlavaUhdV2ImageProcessor) -> torch.Tensor:
    """A view as the tower gets it: (1, 3, H, W)."""
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (image_processor.image_mean, image_processor.image_std)
    )
    return (torch.from_numpy(np.array(view)).permute(2, 0, 1)[None] / 255 - mean) / std


@torch.no_grad()
def draw_views(views: Sequence[torch.Tensor], parts: PyramidParts) -> list[Row]:
    """One row of captioned maps a view, in the palette of all views: (1, 3, H, W) each, normalised."""
    processor, tower, upsampler = parts.image_processor, parts.tower, parts.upsampler
    if tower is None or upsampler is None:
        steps = max(parts.config.projector_config.levels)
        return [guidance_row(view, processor.patch_size, steps) for view in views]
    mean, std = processor.image_mean, processor.image_std
    views = [view.to(tower.device, tower.dtype) for view in views]
    features = [tower_features(tower, view, parts.config) for view in views]
    palette = fit_palette([one[0].float() for one in features])
    return [pyramid_row(upsampler, *pair, mean, std, palette) for pair in zip(features, views, strict=True)]


def join_slices(rows: Sequence[Row], plan: SlicePlan, side: int) -> list[tuple[str, Image.Image]]:
    """Puts the maps of the slices together in their grid, with seams; nothing for an image that is not sliced.

    Args:
        rows: one a slice.
        plan: how the image is cut.
        side: longer side of a panel, in pixels.
    """
    if not rows:
        return []
    (grid_rows, columns), longest = plan.grid, max(plan.refined_size)
    slice_side = max(round(side * max(plan.slice_size) / longest), 1)
    panels = []
    for maps in zip(*rows, strict=True):
        tiles = [enlarge(one, slice_side) for _, one in maps]
        width, height = tiles[0].width + SEAM, tiles[0].height + SEAM
        panel = Image.new("RGB", (columns * width - SEAM, grid_rows * height - SEAM), BACKGROUND)
        for index, tile in enumerate(tiles):
            row, column = divmod(index, columns)
            panel.paste(tile, (column * width, row * height))
        panels.append((maps[0][0], panel))
    panels[0] = (count_of(plan.num_slices, "slice"), panels[0][1])
    return panels


__all__ = ["PyramidParts", "draw_pyramid", "load_pyramid"]
