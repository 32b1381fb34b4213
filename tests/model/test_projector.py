# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The Hiwin projector at width 256 and 512, where it chooses the reordered form by itself, against the plain order."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module


UPSAMPLERS = pytest.mark.parametrize("upsampler", ["vdim", "bilinear"])


@pytest.fixture
def calls(monkeypatch):
    """A list that grows with every call of the reordered form."""
    counted, original = [], projector_module.project_views
    monkeypatch.setattr(projector_module, "project_views", lambda *args: counted.append(1) or original(*args))
    return counted


def gradients(projector, features, pixels, plain):
    projector.zero_grad()
    features = features.clone().requires_grad_()
    [tokens] = projector([features], [pixels], plain=plain)
    (tokens * torch.arange(tokens.numel()).view_as(tokens).cos()).sum().backward()
    return {"features": features.grad} | {name: weight.grad for name, weight in projector.named_parameters()}


@UPSAMPLERS
def test_gradients_are_those_of_the_plain_order(mid_projector, calls, upsampler):
    projector, features, pixels = mid_projector(upsampler=upsampler, levels=[0, 1], dtype=torch.float64)
    features, pixels = features[:1, :, :8, :6], pixels[:1, :, : 8 * 14, : 6 * 14]
    found = gradients(projector, features, pixels, plain=False)
    assert calls == [1]
    expected = gradients(projector, features, pixels, plain=True)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9 * largest, msg=name)


@UPSAMPLERS
@torch.no_grad()
@pytest.mark.parametrize("levels", [[0], [0, 2], [0, 1, 2, 3]])
def test_every_choice_of_levels_is_reordered(mid_projector, calls, upsampler, levels):
    projector, features, pixels = mid_projector(upsampler=upsampler, levels=levels, dtype=torch.float64)
    features, pixels = features[:1, :, :6, :6], pixels[:1, :, : 6 * 14, : 6 * 14]
    [tokens] = projector([features], [pixels])
    assert calls == [1]
    torch.testing.assert_close(tokens, projector([features], [pixels], plain=True)[0], rtol=0, atol=1e-8)


def wrap_fixup(projector):
    config = LoraConfig(r=2, target_modules=r".*fixups\.2", init_lora_weights=False)
    inject_adapter_in_model(config, projector)


def hook_stage(projector):
    projector.upsampler.stages[0].register_forward_hook(lambda module, inputs, output: output * 2)


def hook_upsampler(projector):
    projector.upsampler.register_forward_hook(lambda module, inputs, levels: [level * 2 for level in levels])


def replace_forward(projector):
    forward = projector.upsampler.forward
    projector.upsampler.forward = lambda features, pixels: [level + 1 for level in forward(features, pixels)]


@torch.no_grad()
@pytest.mark.parametrize("change", [wrap_fixup, hook_stage, hook_upsampler, replace_forward])
def test_layers_that_must_be_called_are_called(mid_projector, calls, change):
    projector, features, pixels = mid_projector()
    [before] = projector([features], [pixels])
    assert calls == [1]
    change(projector)
    [tokens] = projector([features], [pixels])
    assert calls == [1]
    torch.testing.assert_close(tokens, projector([features], [pixels], plain=True)[0], rtol=0, atol=1e-5)
    assert (tokens - before).abs().max() > 1e-3


def test_an_up_sampler_that_is_not_linear_can_not_be_folded(mid_projector, monkeypatch):
    projector, _, _ = mid_projector()
    projector.fold()
    projector.unfold()
    monkeypatch.setattr(type(projector.upsampler), "linear_levels", None)
    with pytest.raises(ValueError, match="can't be folded.*not linear"):
        projector.fold()
