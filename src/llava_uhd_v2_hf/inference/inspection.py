# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a model sees of an image: its views, the order of its tokens, and both in a few words."""

import math
from dataclasses import dataclass

from PIL import Image

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.geometry_llava_uhd_v2 import ROW_SEPARATOR, SLICE_SEPARATOR, SlicePlan, token_layout
from ..model.image_loading_llava_uhd_v2 import read_rgb
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor, OneImage, cut_views


Regions = list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Inspection:
    """What a model sees of an image.

    Args:
        image_size: (height, width) of the image in pixels.
        plan: how it is cut.
        views: the views as the model gets them: the slices row by row, then the overview.
        patch_size: side of a ViT patch in pixels.
        token_grid: (rows, columns) of tokens in a slice.
        overview_token_grid: (rows, columns) of tokens in the overview.
        regions: the part of a slice that each of its tokens sees, (top, left, bottom, right) in [0, 1]; None where it
            is all of it.
        overview_regions: the same of the overview.
        layout: order of the tokens, `"spatial"` or `"sequential"`.
    """

    image_size: tuple[int, int]
    plan: SlicePlan
    views: list[Image.Image]
    patch_size: int
    token_grid: tuple[int, int]
    overview_token_grid: tuple[int, int]
    regions: Regions | None
    overview_regions: Regions | None
    layout: str

    @property
    def order(self) -> tuple[int, ...]:
        """The image's tokens and separators in reading order, see [`token_layout`]."""
        return token_layout(self.plan.grid, self.token_grid, self.layout, self.overview_token_grid)

    def count_tokens(self) -> dict[str, int]:
        """How many tokens there are of each kind; kinds that don't occur are left out."""
        counts = {
            "slice token": self.plan.num_slices * math.prod(self.token_grid),
            "row separator": self.order.count(ROW_SEPARATOR),
            "slice separator": self.order.count(SLICE_SEPARATOR),
            "overview token": math.prod(self.overview_token_grid),
        }
        return {kind: count for kind, count in counts.items() if count}

    def describe_size(self, size: tuple[int, int]) -> str:
        """(height, width) in pixels, in words with its patches."""
        height, width = size
        return f"{height} x {width} pixels, {height // self.patch_size} x {width // self.patch_size} patches"

    def describe(self) -> dict[str, str]:
        """The facts by their names, each in a few words."""
        facts = {"image": "{} x {} pixels (height x width)".format(*self.image_size), "slices": "none"}
        if self.plan.num_slices:
            rows, columns = self.plan.grid
            facts["slices"] = f"{self.plan.num_slices} in {count_of(rows, 'row')} and {count_of(columns, 'column')}"
            facts["slice"] = self.describe_size(self.plan.slice_size)
        facts["overview"] = self.describe_size(self.plan.overview_size)
        facts["patches"] = f"{self.plan.num_patches(self.patch_size):,}"
        parts = " + ".join(count_of(count, kind) for kind, count in self.count_tokens().items())
        facts["tokens"] = f"{len(self.order):,} = {parts} ({self.layout} layout)"
        return facts


def inspect_image(
    image: OneImage,
    image_processor: LlavaUhdV2ImageProcessor,
    config: LlavaUhdV2Config,
    max_slices: int | None = None,
) -> Inspection:
    """Cuts an image, in any form that the image processor takes, as it does; `max_slices` overrides its own.

    Raises:
        ValueError: if the image can't be used or `max_slices` is less than 1.
    """
    image = read_rgb(image, max_pixels=image_processor.max_image_pixels, alpha=image_processor.alpha)
    settings = {} if max_slices is None else {"max_slices": max_slices}
    plan = image_processor.slice_plan(image.height, image.width, settings)
    projector, patch_size = config.projector_config, image_processor.patch_size
    token_grid, overview_token_grid = projector.token_grids(plan, patch_size)
    slice_size = plan.slice_size if plan.num_slices else plan.overview_size
    return Inspection(
        image_size=(image.height, image.width),
        plan=plan,
        views=cut_views(image, plan, image_processor.resample),
        patch_size=patch_size,
        token_grid=token_grid,
        overview_token_grid=overview_token_grid,
        regions=projector.token_regions(slice_size, patch_size),
        overview_regions=projector.token_regions(plan.overview_size, patch_size),
        layout=config.token_layout,
    )


def count_of(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


__all__ = ["Inspection", "inspect_image"]
