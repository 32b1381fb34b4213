# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Counted FLOPs of a tiny model, against formulas by hand."""

import flops  # noqa: E402
import pytest
import torch

from llava_uhd_v2_hf import LlavaUhdV2ForConditionalGeneration
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan, choose_pooling_grid, num_image_tokens


TEXT_TOKENS = 7
COUNTED: dict[str, int] = {}
PATCHES = {"slices": 2 * 4 * 4, "overview": 3 * 5}


@pytest.fixture
def plan():
    """Two slices of 4x4 patches and an overview of 3x5."""
    return SlicePlan((1, 2), (56, 56), (42, 70))


@pytest.fixture
def counted(tiny_config, plan):
    """The same for every test, so it is counted once."""
    if not COUNTED:
        COUNTED.update(flops.count_parts(tiny_config, plan, TEXT_TOKENS))
    return COUNTED


def test_tower_equals_the_formula(tiny_config, counted):
    vision = tiny_config.vision_config
    width, inner, layers = vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers - 1

    def tower(views, patches):
        tokens = patches + 1
        layer = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * inner
        native = 4 * 4 * 588 * width  # the class token comes with an image of native size
        return 2 * (views * (patches * 588 * width + layers * layer) + native)

    positions = resizing(width, (4, 4), (3, 5))
    assert counted["tower"] == tower(2, 16) + tower(1, 15) + 2 * positions


def resizing(channels, grid, size):
    """Multiplications of two products: along the width, then along the height."""
    return channels * (grid[0] * grid[1] * size[1] + size[0] * grid[0] * size[1])


def test_text_model_equals_the_formula(tiny_config, plan, counted):
    text = tiny_config.text_config
    tokens = num_image_tokens(plan, query_grid=(3, 3), layout="spatial") + TEXT_TOKENS
    width, inner = text.hidden_size, text.intermediate_size
    layer = 4 * tokens * width**2 + 2 * tokens**2 * width + 3 * tokens * width * inner
    formula = 2 * (text.num_hidden_layers * layer + width * text.vocab_size)
    assert counted["text"] == pytest.approx(formula, rel=1e-3)  # rotary positions are a product in some versions


def test_projector_in_the_plain_order_equals_the_formula(tiny_config, counted):
    projector, width = tiny_config.projector_config, tiny_config.text_config.hidden_size
    channels, sets, queries = tiny_config.vision_config.hidden_size, projector.num_query_sets, 9
    patches = sum(PATCHES.values())
    finer = sum(4**level for level in projector.levels) * patches
    assert counted["plain, projection of levels"] == 2 * finer * channels * width

    guidance, taps = projector.upsampler_guidance_size, projector.upsampler_kernel_size**2
    stage = 3 * guidance + guidance**2 + (taps + 3) * taps + taps**2
    enlarging = sum(
        views * resizing(channels, (height << level, across << level), (2 * height << level, 2 * across << level))
        for views, height, across in ((2, 4, 4), (1, 3, 5))
        for level in (0, 1)
    )
    kernels = (4 + 16) * patches * stage
    assert counted["plain, up-sampling"] == 2 * (kernels + enlarging + 16 * patches * channels**2)

    cells = [
        views * rows * columns
        for views, (rows, columns) in ((2, pooling(projector, 4, 4)), (1, pooling(projector, 3, 5)))
    ]
    keys = len(projector.levels) * queries * sum(cells)
    assert counted["plain, keys and values"] == 2 * sets * 2 * keys * width**2
    assert counted["plain, output"] == 2 * 3 * queries * (2 * sets + 1) * width**2
    assert counted["plain"] == sum(number for name, number in counted.items() if name.startswith("plain, "))


def pooling(projector, height, width):
    return choose_pooling_grid(height, width, projector.pooling_grids)


def test_projector_as_it_runs_is_counted_like_one_with_data(tiny_config, counted):
    projector = LlavaUhdV2ForConditionalGeneration(tiny_config).eval().requires_grad_(False).model.visual.projector
    assert projector.can_reorder()
    maps = [torch.randn(2, 32, 4, 4), torch.randn(1, 32, 3, 5)]
    views = [torch.randn(2, 3, 56, 56), torch.randn(1, 3, 42, 70)]
    projector(maps, views)  # makes tables that are kept
    assert counted["projector"] == flops.count(lambda: projector(maps, views))[0]


def test_the_text_model_of_a_folder_is_read(tiny_config, tmp_path):
    tiny_config.text_config.save_pretrained(tmp_path)
    assert flops.build_config(str(tmp_path)).text_config.hidden_size == tiny_config.text_config.hidden_size
    with pytest.raises(ValueError, match="'vicuna-8b' is no file or folder; give one, or vicuna-7b, "):
        flops.build_config("vicuna-8b")
