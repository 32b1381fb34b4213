# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What images cost before they are encoded: tokens, memory of the vision encoder, memory of the cache."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.fast_order_llava_uhd_v2 import BAND_BYTES, CHUNK_BYTES, HEAD_GROUPS, STRIP_BYTES
from ..model.geometry_llava_uhd_v2 import SlicePlan, num_image_tokens
from ..model.vision_llava_uhd_v2 import views_at_a_time, wide_layer_size


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
    query_grid, layout = config.projector_config.query_grid, config.token_layout
    tokens = sum(num_image_tokens(plan, query_grid=query_grid, layout=layout) for plan in plans)
    views = Counter(size for plan in plans for size in plan.view_sizes)
    vision = estimate_vision_bytes(views, config, dtype) if views else 0
    return ImageCost(tokens, vision, tokens * cache_bytes_per_token(config, dtype))


def estimate_vision_bytes(views: Mapping[tuple[int, int], int], config: LlavaUhdV2Config, dtype: torch.dtype) -> int:
    """Peak memory of tower and projector on a CPU, for so many views of each (height, width) in pixels.

    Counted are the largest tensors that live at the same time. docs/processing.md compares it with measurements.
    """
    projector, patch_size = config.projector_config, config.vision_config.patch_size
    channels, width, itemsize = config.vision_config.hidden_size, config.text_config.hidden_size, dtype.itemsize
    levels, top, queries = len(projector.levels), max(projector.levels), math.prod(projector.query_grid)
    patches = {size: size[0] // patch_size * (size[1] // patch_size) for size in views}
    largest, count = max(patches.values()), max(views.values())
    total = sum(patches[size] * count for size, count in views.items())

    tower = min(count, views_at_a_time(config.vision_config, largest, itemsize, "cpu"))
    tower *= largest * (5 * channels + wide_layer_size(config.vision_config)) * itemsize
    # for all views: pixels, features and tokens
    kept = total * (3 * patch_size**2 + channels) * itemsize + sum(views.values()) * queries * width * itemsize
    # products of the weights: Gram matrices, queries, fixed keys, and what stands for keys and values
    rows = queries * projector.num_query_sets
    weights = levels * channels**2 * 4 + (rows + queries) * width * 4
    weights += max(width, levels * channels) * width * (4 + itemsize)
    # what they are made of, three times: the heap keeps the room
    weights += 3 * levels * channels * width * 4
    # a chunk of views: pooled features in float32, and answers on their way out
    cells = max(pool_rows * pool_columns for pool_rows, pool_columns in projector.pooling_grids)
    pooled = queries * levels * cells * channels * 4
    chunk = min(count, max(CHUNK_BYTES // pooled, 1))
    answers = 3 * chunk * rows * width * 4
    # bands of the top level's operator and the whole one of the level below, or heads of a strip of windows
    operator = 4 ** max(top - 1, 0) * largest**2 * 4
    working = max(2 * operator + 8 * BAND_BYTES, 4 * STRIP_BYTES // HEAD_GROUPS)
    return max(tower, kept + weights + chunk * pooled + answers + working)


def cache_bytes_per_token(config: LlavaUhdV2Config, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers of the language model."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * head_dim * dtype.itemsize


__all__ = ["ImageCost", "cache_bytes_per_token", "estimate_cost", "estimate_vision_bytes"]
