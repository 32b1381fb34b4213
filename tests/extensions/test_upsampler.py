# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""An up-sampler from one file outside the package: in every order of operations, and from config to export."""

import pytest
import torch
from torch import nn

from llava_uhd_v2_hf import LlavaUhdV2ForConditionalGeneration, LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import UPSAMPLERS
from tests.extensions.outside import nearest, step_by_step  # noqa: F401  registers them
from tests.support.journeys import Journey


class TestDeconvolution(Journey):
    changes = {"projector": {"upsampler": "step by step", "levels": [0, 1, 2]}}
    named_by = ("projector_config", "upsampler")
    extension = step_by_step.__name__


@torch.no_grad()
@pytest.mark.parametrize(
    ("upsampler", "dtype", "reordered"),
    [
        ("step by step", torch.float32, False),
        ("repeated", torch.float64, True),
        ("bilinear", torch.float64, True),
        ("vdim", torch.float64, True),
    ],
)
def test_every_order_computes_what_the_plain_one_does(mid_projector, upsampler, dtype, reordered, monkeypatch):
    projector, features, pixels = mid_projector(upsampler=upsampler, dtype=dtype)
    calls, original = [], projector_module.project_views
    monkeypatch.setattr(projector_module, "project_views", lambda *args: calls.append(1) or original(*args))
    [tokens] = projector([features], [pixels])
    assert bool(calls) is reordered
    [expected] = projector([features], [pixels], plain=True)
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-6)
    assert expected.std() > 0.01


def test_new_weights_are_initialised(tiny_config):
    tiny_config.projector_config.upsampler = "step by step"
    model = LlavaUhdV2ForConditionalGeneration(tiny_config)
    assert all(stage.weight.std() > 0 for stage in model.model.visual.projector.upsampler.stages)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"`upsampler`.*`sharpest` is not supported.*vdim, bilinear.*step by step"):
        LlavaUhdV2ProjectorConfig(upsampler="sharpest")


def test_a_class_that_lacks_a_part_of_the_interface_is_named(tiny_config, monkeypatch):
    class Half(nn.Module):
        def forward(self, features, pixels):
            return [features]

    monkeypatch.setitem(UPSAMPLERS, "half", Half)
    tiny_config.projector_config.upsampler = "half"
    with pytest.raises(ValueError, match=r"up-sampler `half`, .*Half, lacks reset_parameters, linear_levels"):
        LlavaUhdV2ForConditionalGeneration(tiny_config)
