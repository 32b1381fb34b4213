# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""RoI-align, window attention and the whole projector against the authors' code, and on extreme shapes."""

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.model.configuration_llava_uhd_v2 import DEFAULT_POOLING_GRIDS, SUPPORTED_LEVELS
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import choose_pooling_grid
from llava_uhd_v2_hf.model.projectors_hiwin_llava_uhd_v2 import LlavaUhdV2Projector
from llava_uhd_v2_hf.model.window_attention_llava_uhd_v2 import pool_windows, roi_align_weights, sincos_position_table
from tests.support.recordings import PROJECTOR, read_pixels, read_recording, under_our_names


LEVELS_OF_MASK = {3: [0, 1], 5: [0, 2], 7: [0, 1, 2]}


def small_config(channels, width, heads, **projector):
    return LlavaUhdV2Config(
        vision_config={"hidden_size": channels, "num_attention_heads": 2, "patch_size": 14},
        text_config={"hidden_size": width, "num_attention_heads": 2, "vocab_size": 32001},
        projector_config={"num_attention_heads": heads, **projector},
    )


def test_roi_align_equals_the_recorded_windows(reference):
    tensors = load_file(reference / "roi.safetensors")
    sizes = [re.fullmatch(r"input_(\d+)x(\d+)", name) for name in tensors]
    sizes = [(int(size[1]), int(size[2])) for size in sizes if size]
    assert sizes
    for height, width in sizes:
        pooling_grid = choose_pooling_grid(height, width, DEFAULT_POOLING_GRIDS)
        pooled = pool_windows(tensors[f"input_{height}x{width}"], [12, 12], pooling_grid)
        expected = tensors[f"output_{height}x{width}"]
        torch.testing.assert_close(pooled.flatten(0, 1), expected, rtol=0, atol=1e-5)


def test_windows_lie_where_the_recorded_boxes_are(reference):
    """The mean sample position of a pooled window is the middle of its box, unless the box was enlarged to a pixel."""
    checked = 0
    for line in (reference / "windows.jsonl").read_text().splitlines():
        recorded = json.loads(line)
        height, width = recorded["feature_height"], recorded["feature_width"]
        if "boxes" not in recorded or min(height, width) < 24:
            continue
        middles = []
        for length in (height, width):
            weights = roi_align_weights(length, 12, 1)
            middles.append(weights @ torch.arange(length, dtype=torch.float32) / weights.sum(1))
        boxes = torch.tensor(recorded["boxes"]).view(12, 12, 4)
        # samples on the last half pixel are pulled onto the last pixel, as in the released code
        torch.testing.assert_close(middles[0][:11], boxes[:11, 0, 1::2].mean(1), rtol=0, atol=1e-3)
        torch.testing.assert_close(middles[1][:11], boxes[0, :11, 0::2].mean(1), rtol=0, atol=1e-3)
        checked += 1
    assert checked


@given(length=st.integers(1, 400), windows=st.integers(1, 16), cells=st.integers(1, 4))
def test_roi_weights_are_averages_that_never_leave_the_map(length, windows, cells):
    weights = roi_align_weights(length, windows, cells)
    assert weights.shape == (windows * cells, length)
    assert (weights >= 0).all()
    sums = weights.sum(1)
    assert (sums <= 1 + 1e-5).all()
    if length >= windows:  # only enlarged windows reach over the edge, where samples count as zero
        torch.testing.assert_close(sums, torch.ones_like(sums))


def test_initial_positions_are_the_released_table(reference):
    table = load_file(reference / "hiwin_weights.safetensors")["stack4x.pos_embed"].float()
    # the recorded table has been rounded to bfloat16
    torch.testing.assert_close(sincos_position_table([12, 12], 256), table, rtol=0, atol=2**-8)


def load_projector(reference, mask):
    description, _ = read_recording(reference, "hiwin")
    weights = load_file(reference / "hiwin_weights.safetensors")
    released = {}
    for stack in ("stack4x.", "stack2x.")[: 2 if mask == 3 else 1]:
        if stack == "stack2x.":
            released = {name: tensor for name, tensor in released.items() if ".upsampler." not in name}
        for name, tensor in weights.items():
            if name.startswith(stack):
                released["model.mm_projector." + name.removeprefix(stack)] = tensor
    config = small_config(
        description["mm_hidden_size"], description["embed_dim"], description["num_heads"], levels=LEVELS_OF_MASK[mask]
    )
    projector = LlavaUhdV2Projector(config).eval()
    projector.load_state_dict(under_our_names(released, config.projector_config, PROJECTOR))
    return projector


def recorded_views(reference, description, tensors):
    """(features (1, c, h, w), pixels (1, 3, 14h, 14w)) of every recorded view, image by image."""
    index = 0
    for grids in description["layout"]:
        for height, width in grids:
            features = tensors["features_padded"][index, : height * width].T.reshape(1, -1, height, width)
            file = description["image_files"][f"image_u8_{index}"][0]
            yield features, read_pixels(reference, file)[None] / 127.5 - 1
            index += 1


@torch.no_grad()
def test_projector_equals_the_released_resampler(reference):
    description, tensors = read_recording(reference, "hiwin")
    assert {case["mask"] for case in description["cases"]} == set(LEVELS_OF_MASK)
    for case in description["cases"]:
        projector = load_projector(reference, case["mask"])
        names = [name for image in case["outputs"] for name in image]
        for name, (features, pixels) in zip(names, recorded_views(reference, description, tensors), strict=True):
            torch.testing.assert_close(projector([features], [pixels])[0][0], tensors[name], rtol=0, atol=1e-4)

        pyramid = projector.upsampler(features, pixels)
        attention = projector.window_attention
        keys, values = attention.keys_and_values(pyramid, attention.key_offsets(*features.shape[-2:]))
        queries = description["keys_values_query_indices"]
        for name, got in (("keys", keys), ("values", values)):
            expected = tensors[f"mask{case['mask']}.{name}_last"]
            torch.testing.assert_close(got[0, queries], expected, rtol=0, atol=1e-4)


@torch.no_grad()
@settings(max_examples=30, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    levels=st.sampled_from(SUPPORTED_LEVELS),
    upsampler=st.sampled_from(["vdim", "bilinear"]),
    sets=st.sampled_from([1, 4]),
    query_grid=st.sampled_from([(2, 2), (3, 5)]),
)
def test_any_configuration_makes_finite_tokens_for_any_view(grid, levels, upsampler, sets, query_grid):
    torch.manual_seed(0)
    options = {"levels": levels, "upsampler": upsampler, "num_query_sets": sets, "query_grid": query_grid}
    projector = LlavaUhdV2Projector(small_config(8, 16, 2, **options)).eval()
    tokens = projector([torch.randn(2, 8, *grid)], [torch.randn(2, 3, 14 * grid[0], 14 * grid[1])])[0]
    assert tokens.shape == (2, query_grid[0] * query_grid[1], 16)
    assert tokens.isfinite().all()


@torch.no_grad()
def test_a_query_sees_its_own_window_on_every_level_and_nothing_else():
    torch.manual_seed(0)
    attention = LlavaUhdV2Projector(small_config(8, 16, 2, query_grid=[3, 3])).window_attention.eval()
    torch.nn.init.normal_(attention.queries)
    pyramid = [torch.randn(1, 8, 12 << level, 12 << level) for level in range(3)]
    tokens = attention([pyramid])
    for level, maps in enumerate(pyramid):
        changed = [other.clone() for other in pyramid]
        side = 12 << level
        # well inside the window in the middle, since RoI-align interpolates across borders
        changed[level][..., side // 2, side // 2] += 1
        differs = (attention([changed]) - tokens).abs().amax(-1)[0] > 1e-6
        assert differs.nonzero().flatten().tolist() == [4], (level, maps.shape)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_within_its_rounding(reference, dtype):
    description, tensors = read_recording(reference, "hiwin")
    projector = load_projector(reference, 7)
    features, pixels = next(recorded_views(reference, description, tensors))
    expected = projector([features], [pixels])[0]
    got = projector.to(dtype)([features.to(dtype)], [pixels])[0].float()
    # measured: 1.4 (bfloat16) and 1.0 (float16) units of rounding of the largest number
    assert (got - expected).abs().max() <= 2 * torch.finfo(dtype).eps * expected.abs().max()
