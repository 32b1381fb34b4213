# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What images cost before they are encoded: tokens, memory of the vision encoder, memory of the cache."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .configuration_llava_uhd_v2 import LlavaUhdV2Config
from .fast_projector_llava_uhd_v2 import GROUP_BYTES, STRIP_WINDOWS, views_per_chunk
from .geometry_llava_uhd_v2 import SlicePlan, choose_pooling_grid, num_image_tokens


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
    vision = max((estimate_vision_bytes(size, count, config, dtype) for size, count in views.items()), default=0)
    return ImageCost(tokens, vision, tokens * cache_bytes_per_token(config, dtype))


def estimate_vision_bytes(size: tuple[int, int], count: int, config: LlavaUhdV2Config, dtype: torch.dtype) -> int:
    """Peak memory of tower and projector for `count` views of one (height, width) in pixels, which run together.

    Counted are the largest tensors that live at the same time. docs/processing.md compares it with measurements.
    """
    projector, patch_size = config.projector_config, config.vision_config.patch_size
    channels, width, itemsize = config.vision_config.hidden_size, config.text_config.hidden_size, dtype.itemsize
    rows, columns = size[0] // patch_size, size[1] // patch_size
    patches, levels, top = rows * columns, len(projector.levels), max(projector.levels)

    # the tower: two states, keys, queries and values, and the wide layer of its perceptrons
    tower = count * patches * (5 * channels + config.vision_config.intermediate_size) * itemsize
    # the projector, for a chunk of views: projected features of every level, one level's three times in float32
    chunk = min(count, views_per_chunk(patches, levels, width, itemsize))
    projected = chunk * patches * width * (levels * itemsize + 3 * 4)
    # operators of the levels below the top one, with what they are made of
    operators = chunk * 4 ** max(top - 1, 0) * 4 * patches**2 * 4 if top else 0
    # pooled features of a strip of windows, and the answers of all windows three times on their way out
    pool_rows, pool_columns = choose_pooling_grid(rows, columns, projector.pooling_grids)
    pooled = chunk * STRIP_WINDOWS * pool_rows * pool_columns * levels * width * itemsize
    answers = 3 * chunk * math.prod(projector.query_grid) * projector.num_query_sets * width * itemsize
    # a group of heads: its weights for keys and values, absorbed queries, mixed values and copies of both
    heads = max(GROUP_BYTES // (projector.num_query_sets * STRIP_WINDOWS * width * itemsize), 1)
    weights = 2 * min(heads / projector.num_attention_heads, 1) * width**2 * itemsize
    features = 2 * count * patches * channels * itemsize
    return max(tower, int(features + projected + operators + pooled + answers + weights + 6 * GROUP_BYTES))


def cache_bytes_per_token(config: LlavaUhdV2Config, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers of the language model."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * head_dim * dtype.itemsize


def describe_bytes(number: int) -> str:
    """In two or three digits: 690 MB, 4.1 GB."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
