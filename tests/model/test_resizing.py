# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Resizing by matrix products against `F.interpolate`."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_uhd_v2_hf.model.resizing_llava_uhd_v2 import resize


SIDES = st.integers(1, 12)


@settings(max_examples=50, deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(["bicubic", "bilinear"]), st.booleans())
def test_maps_and_gradients_are_those_of_interpolate(grid, size, mode, double):
    dtype = torch.float64 if double else torch.float32
    maps = torch.randn(2, 3, *grid, dtype=dtype, generator=torch.Generator().manual_seed(0), requires_grad=True)
    expected = F.interpolate(maps, size=size, mode=mode, align_corners=False)
    resized = resize(maps, size, mode)
    assert resized.dtype == dtype
    torch.testing.assert_close(resized, expected)
    weights = torch.randn(expected.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((made * weights).sum(), maps)[0] for made in (resized, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_autocast_leaves_the_precision(mode):
    maps = torch.randn(1, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        resized = resize(maps, (10, 14), mode)
    torch.testing.assert_close(resized, F.interpolate(maps, size=(10, 14), mode=mode, align_corners=False))
