# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The visual detail injection module against the authors' code, and on shapes where that crashes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_uhd_v2_hf import LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.model.upsamplers_bilinear_llava_uhd_v2 import LlavaUhdV2BilinearUpsampler
from llava_uhd_v2_hf.model.upsamplers_vdim_llava_uhd_v2 import (
    LlavaUhdV2Upsampler,
    neighbours,
    pad_by_reflection,
)
from tests.support.recordings import CLIP_MEAN, CLIP_STD, read_pixels, read_recording, upsampler_tensors


LEVELS = {"2x": [0, 1], "4x": [0, 1, 2], "8x": [0, 1, 2, 3]}
LEVEL_OF = {"feat2x": 1, "feat4x": 2, "feat8x": 3}


def load_upsampler(tensors, prefix, stack, channels):
    config = LlavaUhdV2ProjectorConfig(levels=LEVELS[stack])
    upsampler = LlavaUhdV2Upsampler(config, channels).eval()
    upsampler.load_state_dict(upsampler_tensors(tensors, f"{prefix}.weights.", config))
    return upsampler


def read_guidance(reference, description, name):
    pixels = torch.stack([read_pixels(reference, file) for file in description["image_files"][name]])
    return (pixels / 255 - CLIP_MEAN) / CLIP_STD


def test_every_level_equals_the_released_stacks(reference):
    description, tensors = read_recording(reference, "jbu")
    assert description["cases"]
    for case in description["cases"]:
        upsampler = load_upsampler(tensors, case["stack"], case["stack"], case["feat_dim"])
        size = case["guidance"].removeprefix("guidance_u8_")
        source = tensors[f"{case['stack']}.source_{size}"]
        with torch.no_grad():
            pyramid = upsampler(source, read_guidance(reference, description, case["guidance"]))
        assert len(pyramid) == len(LEVELS[case["stack"]])
        for name in case["outputs"]:
            expected = tensors[f"{case['stack']}.{name}_{size}"]
            torch.testing.assert_close(pyramid[LEVEL_OF[name]], expected, rtol=0, atol=1e-4)


def test_gradients_equal_the_released_stacks(reference):
    description, tensors = read_recording(reference, "jbu")
    assert description["gradients"]
    for case in description["gradients"]:
        prefix = case["prefix"]
        upsampler = load_upsampler(tensors, prefix, case["stack"], case["feat_dim"])
        source = tensors[f"{prefix}.source"].requires_grad_()
        pyramid = upsampler(source, read_guidance(reference, description, f"{prefix}.guidance_u8"))
        loss = sum(level.square().sum() for level in pyramid[1:])
        loss.backward()

        torch.testing.assert_close(loss, tensors[f"{prefix}.loss"].view(()), rtol=1e-5, atol=0)
        config = LlavaUhdV2ProjectorConfig(levels=LEVELS[case["stack"]])
        expected = upsampler_tensors(tensors, f"{prefix}.grad.", config)
        gradients = {name: parameter.grad for name, parameter in upsampler.named_parameters()}
        assert gradients.keys() == expected.keys()
        for name, gradient in [*gradients.items(), ("source", source.grad)]:
            recorded = tensors[f"{prefix}.grad.source"] if name == "source" else expected[name]
            assert (gradient - recorded).abs().max() <= 1e-3 * recorded.abs().max(), name


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), levels=st.sampled_from(list(LEVELS.values())))
def test_any_grid_has_finite_levels_of_doubled_size(height, width, levels):
    torch.manual_seed(0)
    upsampler = LlavaUhdV2Upsampler(LlavaUhdV2ProjectorConfig(levels=levels), 4).eval()
    pyramid = upsampler(torch.randn(2, 4, height, width), torch.randn(2, 3, 14 * height, 14 * width))
    assert [tuple(level.shape) for level in pyramid] == [
        (2, 4, height << level, width << level) for level in range(max(levels) + 1)
    ]
    assert all(level.isfinite().all() for level in pyramid)


def test_padding_reflects_where_it_can_and_replicates_elsewhere():
    row = torch.arange(5.0).view(1, 1, 1, 5)
    padded = pad_by_reflection(row, 3)
    assert padded.shape == (1, 1, 7, 11)
    assert (padded == padded[..., :1, :]).all()
    assert padded[0, 0, 0].tolist() == [3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]


def test_neighbours_come_in_row_major_order_around_the_pixel():
    maps = torch.arange(81.0).view(1, 1, 9, 9)
    around_the_centre = [int(tap[0, 0, 4, 4]) for tap in neighbours(maps, 3)]
    assert around_the_centre == [30, 31, 32, 39, 40, 41, 48, 49, 50]


def count_dropouts(upsampler, features, pixels):
    """How often each dropout runs, with how many channels."""
    seen = []
    for dropout in (upsampler.dropout, *(stage.dropout for stage in upsampler.stages)):
        dropout.register_forward_hook(lambda module, args, _: seen.append((module.p, args[0].shape[1])))
    upsampler(features, pixels)
    return seen


def test_dropout_acts_where_the_released_code_has_it_and_only_in_training():
    torch.manual_seed(0)
    config = LlavaUhdV2ProjectorConfig(levels=[0, 1, 2], upsampler_dropout=0.25, fixup_dropout=0.5)
    upsampler = LlavaUhdV2Upsampler(config, 8)
    features, pixels = torch.randn(1, 8, 4, 4), torch.randn(1, 3, 56, 56)
    stage = [(0.25, 32), (0.25, 49)]  # range network, residual network
    assert count_dropouts(upsampler, features, pixels) == [*stage, *stage, (0.5, 8)]
    assert not torch.equal(upsampler(features, pixels)[1], upsampler(features, pixels)[1])
    upsampler.eval()
    assert torch.equal(upsampler(features, pixels)[1], upsampler(features, pixels)[1])


def test_bilinear_levels_keep_a_linear_ramp():
    config = LlavaUhdV2ProjectorConfig(levels=[0, 1, 2], upsampler="bilinear")
    ramp = torch.arange(8.0).expand(1, 2, 6, 8)
    pyramid = LlavaUhdV2BilinearUpsampler(config, 1)(ramp, torch.zeros(1, 3, 84, 112))
    assert [level.shape[-2:] for level in pyramid] == [(6, 8), (12, 16), (24, 32)]
    inside = pyramid[2][0, 0, 12, 2:-2]
    torch.testing.assert_close(inside.diff(), torch.full((27,), 0.25))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_within_its_rounding(dtype):
    torch.manual_seed(0)
    upsampler = LlavaUhdV2Upsampler(LlavaUhdV2ProjectorConfig(), 16).eval()
    features, pixels = torch.randn(1, 16, 6, 5).to(dtype), torch.randn(1, 3, 84, 70)
    rounded = {name: tensor.to(dtype).float() for name, tensor in upsampler.state_dict().items()}
    upsampler.load_state_dict(rounded)
    expected = upsampler(features.float(), pixels)
    got = upsampler.to(dtype)(features, pixels)
    for level, (exact, half) in enumerate(zip(expected, got)):
        assert half.dtype == dtype
        # measured: 0.3 (bfloat16) and 0.6 (float16) units of rounding of the largest number
        assert (half.float() - exact).abs().max() <= min(level, 1) * torch.finfo(dtype).eps * exact.abs().max()
