# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from transformers import DynamicCache

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.inference.cost import estimate_cost
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import plan_slices
from llava_uhd_v2_hf.model.modeling_llava_uhd_v2 import CACHE_NAME


def plan(height, width, max_slices=6):
    return plan_slices(height, width, max_slices=max_slices, slice_resolution=336, patch_size=14)


@pytest.mark.parametrize(
    ("size", "dtype", "measured"),
    [
        # python benchmarks/vision_memory.py, on a CPU
        ((336, 336), torch.float32, 392e6),
        ((336, 336), torch.bfloat16, 396e6),
        ((400, 600), torch.float32, 433e6),
        ((800, 1200), torch.bfloat16, 427e6),
    ],
)
def test_estimate_is_near_the_measured_peak(size, dtype, measured):
    cost = estimate_cost([plan(*size)], LlavaUhdV2Config(), dtype)
    assert cost.vision_bytes == pytest.approx(measured, rel=0.2)


def test_cache_is_that_of_the_language_model(tiny_model):
    inputs = torch.zeros(1, 5, dtype=torch.long)
    cache = DynamicCache(config=tiny_model.config.text_config)
    tiny_model(input_ids=inputs, use_cache=True, **{CACHE_NAME: cache})
    cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    cost = estimate_cost([plan(800, 1200)], tiny_model.config, torch.float32)
    assert cost.cache_bytes * 5 == cached * cost.num_image_tokens


def test_grouped_heads_are_counted_once():
    config = LlavaUhdV2Config(text_config={"model_type": "llama", "num_key_value_heads": 4, "vocab_size": 32001})
    cost = estimate_cost([plan(336, 336)], config, torch.bfloat16)
    assert cost.cache_bytes == 144 * 2 * 32 * 4 * 128 * 2


def test_several_images_add_up():
    config = LlavaUhdV2Config()
    one = estimate_cost([plan(800, 1200)], config, torch.bfloat16)
    two = estimate_cost([plan(800, 1200)] * 2, config, torch.bfloat16)
    mixed = estimate_cost([plan(800, 1200), plan(100, 100)], config, torch.bfloat16)
    assert one.num_image_tokens == 1033
    assert (two.num_image_tokens, two.cache_bytes) == (2 * one.num_image_tokens, 2 * one.cache_bytes)
    assert one.vision_bytes < two.vision_bytes < 2 * one.vision_bytes  # the projector works through views in chunks
    assert one.vision_bytes <= mixed.vision_bytes < two.vision_bytes
    none = estimate_cost([], config, torch.bfloat16)
    assert (none.num_image_tokens, none.vision_bytes, none.cache_bytes) == (0, 0, 0)
