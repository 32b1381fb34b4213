# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What images cost before they are encoded: tokens, memory of the vision encoder, memory of the cache."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.geometry_llava_uhd_v2 import SlicePlan, num_image_tokens
from ..model.registries_llava_uhd_v2 import PROJECTORS, TOWERS
from ..model.vision_llava_uhd_v2 import views_at_a_time


@dataclass(frozen=True)
class ImageCost:
    """
    Args:
        num_image_tokens: places in the prompt, separators included.
        vision_bytes: memory that tower and projector need for a moment, beside the weights (an estimate).
        cache_bytes: keys and values of the image tokens in a dynamic cache, as long as the conversation lasts.
    """

    num_image_tokens: int
    vision_bytes: int
    cache_bytes: int


def estimate_cost(plans: Sequence[SlicePlan], config: LlavaUhdV2Config, dtype: torch.dtype) -> ImageCost:
    """The cost of images that are encoded together, without gradients.

    Args:
        plans: how each image is cut, see the image processor's `slice_plan`.
        config: the model's configuration.
        dtype: of its weights.
    """
    patch_size = TOWERS[config.vision_config.model_type].stride(config.vision_config)
    tokens = 0
    for plan in plans:
        grid, overview = config.projector_config.token_grids(plan, patch_size)
        tokens += num_image_tokens(plan, query_grid=grid, overview_grid=overview, layout=config.token_layout)
    views = Counter(size for plan in plans for size in plan.view_sizes)
    vision = estimate_vision_bytes(views, config, dtype) if views else 0
    return ImageCost(tokens, vision, tokens * cache_bytes_per_token(config, dtype))


def estimate_vision_bytes(views: Mapping[tuple[int, int], int], config: LlavaUhdV2Config, dtype: torch.dtype) -> int:
    """Estimates the peak memory of tower and projector on a CPU, for so many views of each (height, width) in pixels.

    Counted are the largest tensors that live at the same time. docs/processing.md compares it with measurements.
    """
    tower, projector = TOWERS[config.vision_config.model_type], PROJECTORS[config.projector_config.projector_type]
    patch_size, channels = tower.stride(config.vision_config), tower.width(config.vision_config)
    grids = {(height // patch_size, width // patch_size): count for (height, width), count in views.items()}
    largest, count = max(map(math.prod, grids)), max(grids.values())
    total = sum(math.prod(grid) * number for grid, number in grids.items())
    tokens = sum(
        math.prod(projector.token_grid(config.projector_config, *grid)) * number for grid, number in grids.items()
    )
    itemsize = dtype.itemsize

    at_a_time = min(count, views_at_a_time(config.vision_config, largest, itemsize, "cpu"))
    layers = at_a_time * largest * (5 * channels + tower.wide_layer_size(config.vision_config)) * itemsize
    # for all views: pixels, features and tokens
    held = total * (3 * patch_size**2 + channels) * itemsize + tokens * config.text_config.hidden_size * itemsize
    return max(layers, held + projector.memory(config, grids, dtype))


def cache_bytes_per_token(config: LlavaUhdV2Config, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers of the language model."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * head_dim * dtype.itemsize


__all__ = ["ImageCost", "cache_bytes_per_token", "estimate_cost", "estimate_vision_bytes"]
