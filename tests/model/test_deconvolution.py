# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The up-sampler of transposed convolutions, written out as products of matrices."""

import math

import pytest
import torch

from llava_uhd_v2_hf import LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.model.upsamplers_deconvolution_llava_uhd_v2 import LlavaUhdV2DeconvolutionUpsampler


CHANNELS = 8


def build(levels):
    config = LlavaUhdV2ProjectorConfig(upsampler="deconvolution", levels=levels)
    upsampler = LlavaUhdV2DeconvolutionUpsampler(config, CHANNELS).double()
    torch.manual_seed(0)
    upsampler.reset_parameters()
    return upsampler


def quarters(layer, pixels):
    """Four pixels for each one, (v, h, w, c) -> (v, 2h, 2w, c)."""
    finer = torch.empty(pixels.shape[0], 2 * pixels.shape[1], 2 * pixels.shape[2], CHANNELS, dtype=pixels.dtype)
    for row in range(2):
        for column in range(2):
            finer[:, row::2, column::2] = pixels @ layer.weight[:, :, row, column] + layer.bias
    return finer


@pytest.mark.parametrize("levels", [[0, 1], [0, 2], [0, 1, 2]])
def test_every_level_comes_from_the_towers_map(levels):
    upsampler, features = build(levels), torch.randn(2, CHANNELS, 3, 5, dtype=torch.double)
    pyramid = upsampler(features, torch.empty(0))
    pixels = features.movedim(1, -1)
    assert [tuple(level.shape[1:]) for level in pyramid] == [
        (CHANNELS, 3 << n, 5 << n) for n in range(max(levels) + 1)
    ]
    torch.testing.assert_close(pyramid[0], features)
    if 1 in levels:
        torch.testing.assert_close(pyramid[1].movedim(1, -1), quarters(upsampler.level_1, pixels))
    if 2 in levels:
        first, _, second = upsampler.level_2
        hidden = quarters(first, pixels)
        hidden = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        torch.testing.assert_close(pyramid[2].movedim(1, -1), quarters(second, hidden))


def test_it_has_no_weights_that_are_not_read():
    assert len(list(build([0, 1]).parameters())) == 2
    assert len(list(build([0, 2]).parameters())) == 6
    assert len(list(build([0, 1, 2]).parameters())) == 8


def test_new_weights_are_pytorchs():
    torch.manual_seed(0)
    layer = torch.nn.ConvTranspose2d(64, 64, 2, 2)
    config = LlavaUhdV2ProjectorConfig(upsampler="deconvolution", levels=[0, 1])
    own = LlavaUhdV2DeconvolutionUpsampler(config, 64)
    torch.nn.init.zeros_(own.level_1.weight)
    own.reset_parameters()
    for name in ("weight", "bias"):
        expected, got = getattr(layer, name).abs().max(), getattr(own.level_1, name).abs().max()
        torch.testing.assert_close(got, expected, rtol=0.1, atol=0)


def test_level_3_is_refused():
    with pytest.raises(ValueError, match="the up-sampler `deconvolution`; its highest level is 2"):
        LlavaUhdV2ProjectorConfig(upsampler="deconvolution", levels=[0, 1, 2, 3])
