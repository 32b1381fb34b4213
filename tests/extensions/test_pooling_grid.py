# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A rule for pooling grids from one file outside the package, with more cells on finer levels."""

import pytest
import torch

from llava_uhd_v2_hf import LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import POOLING_GRIDS
from tests.extensions.outside import growing_grids
from tests.support.journeys import Journey


class TestGrowingGrids(Journey):
    changes = {"projector": {"pooling_grid_rule": "growing"}}
    named_by = ("projector_config", "pooling_grid_rule")
    extension = growing_grids.__name__


@torch.no_grad()
def test_windows_have_the_cells_that_the_rule_says(mid_projector, monkeypatch):
    projector, features, pixels = mid_projector(pooling_grid_rule="growing")
    assert projector.window_attention.level_pooling_grids(24, 16) == [(3, 2), (4, 3), (5, 4)]
    calls, original = [], projector_module.project_views
    monkeypatch.setattr(projector_module, "project_views", lambda *args: calls.append(1) or original(*args))
    [tokens] = projector([features], [pixels])
    [expected] = projector([features], [pixels], plain=True)
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-6)
    keys, _ = projector.window_attention.keys_and_values(
        projector.upsampler(features, pixels), projector.window_attention.key_offsets(24, 16)
    )
    assert keys.shape == (2, 144, 3 * 2 + 4 * 3 + 5 * 4, 512)
    assert calls == []  # the reordered form has as many cells on every level


@torch.no_grad()
def test_a_rule_with_equal_grids_is_reordered(mid_projector, monkeypatch):
    monkeypatch.setitem(POOLING_GRIDS, "square", lambda height, width, level, candidates: (2, 2))
    projector, features, pixels = mid_projector(pooling_grid_rule="square", dtype=torch.float64)
    calls, original = [], projector_module.project_views
    monkeypatch.setattr(projector_module, "project_views", lambda *args: calls.append(1) or original(*args))
    [tokens] = projector([features], [pixels])
    [expected] = projector([features], [pixels], plain=True)
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-6)
    assert calls == [1]


def test_an_unknown_rule_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"`pooling_grid_rule`.*`largest` is not supported.*selective, .*growing"):
        LlavaUhdV2ProjectorConfig(pooling_grid_rule="largest")
