# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Frozen parts in training: their backward pass doesn't run, also where gradient checkpointing hooks embeddings."""

import copy
import warnings
from unittest.mock import patch

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch.utils.flop_counter import FlopCounterMode

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration
from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module
from tests.extensions.outside import vit_tower  # noqa: F401  registers it


CHECKPOINTING = {"no checkpointing": None, "non-reentrant": False, "reentrant": True}
FROZEN = {
    "tower": ["vision_tower"],
    "tower and up-sampler": ["vision_tower", "upsampler"],
    "all but the window attention": ["vision_tower", "upsampler", "language_model", "lm_head"],
    "tower and projector": ["visual"],
}
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
TOWERS = {
    "clip": {"model_type": "clip_vision_model", "intermediate_size": 64},
    "siglip": {"model_type": "siglip_vision_model", "intermediate_size": 64},
    "dinov2": {"model_type": "dinov2", "mlp_ratio": 2},
    "from outside": {"model_type": "vit", "intermediate_size": 64},
}


def cases(values, *quick):
    """Parameters with their names, of which all but the quick ones are slow."""
    return [
        pytest.param(value, id=name, marks=() if name in quick else pytest.mark.slow) for name, value in values.items()
    ]


each_checkpointing = pytest.mark.parametrize("reentrant", cases(CHECKPOINTING, "non-reentrant", "reentrant"))
each_frozen = pytest.mark.parametrize("frozen", cases(FROZEN, "tower and up-sampler"))


@pytest.fixture(params=cases({"plain order": "plain order", "fast order": "fast order"}, "fast order"))
def order(request):
    fast = request.param == "fast order"
    with patch.object(projector_module, "reordering_pays", lambda *_: fast):
        yield request.param


@pytest.fixture
def tiny_config(tiny_config):
    """With a smaller up-sampler: FLOPs are counted operation by operation, and it has one for each neighbour."""
    tiny_config.projector_config.upsampler_kernel_size = 3
    tiny_config.projector_config.levels = [0, 1]
    return tiny_config


@pytest.fixture
def inputs(tiny_config):
    """One image of two slices and an overview of another size, and a prompt without an image."""
    torch.manual_seed(0)
    input_ids = torch.randint(50, 250, (2, 45))
    input_ids[0, 2 : 2 + 3 * 7 + 1 + 9] = tiny_config.image_token_id
    return {
        "input_ids": input_ids,
        "labels": input_ids,
        "pixel_values": torch.randn(1, 26, 588),
        "image_sizes": torch.tensor([[1, 2, 56, 28, 28, 56]]),
    }


def freeze(model, frozen):
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not any(part in name for part in frozen)
    return model.train()


def checkpoint(model, reentrant):
    """As trainers do: with hooks that make the outputs of all embeddings require gradients."""
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    return model


def run_step(model, inputs):
    """Returns loss and gradients."""
    model.zero_grad()
    torch.manual_seed(0)  # the up-sampler's dropout
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def count_flops(function, *arguments):
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops()


def assert_equal_steps(step, expected):
    (loss, gradients), (expected_loss, expected_gradients) = step, expected
    assert torch.equal(loss, expected_loss)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected_gradients[name]), name


@each_checkpointing
@pytest.mark.parametrize("tower", cases(TOWERS, "clip"))
def test_a_step_runs_a_frozen_tower_forward_once(tiny_config, inputs, tower, reentrant):
    config = LlavaUhdV2Config(**tiny_config.to_dict() | {"vision_config": SMALL | tower})
    model = LlavaUhdV2ForConditionalGeneration(config)
    freeze(checkpoint(model, reentrant), ["vision_tower"])
    visual, states = model.model.visual, []

    @torch.no_grad()
    def encode(*arguments, encode_views=visual.encode_views, **kwargs):
        states.append(encode_views(*arguments, **kwargs))
        return states[-1]

    with patch.object(visual, "encode_views", encode):  # constants made before are kept
        run_step(model, inputs)
    with patch.object(visual, "encode_views", lambda *_, **__: remembered.pop(0)):
        remembered = list(states)
        without_tower = count_flops(run_step, model, inputs)
    views = [torch.randn(2, 3, 56, 28), torch.randn(1, 3, 28, 56)]
    with torch.no_grad():
        forward = sum(count_flops(visual.encode_views, of_size) for of_size in views)
    assert forward > 0
    assert count_flops(run_step, model, inputs) == without_tower + forward


@each_checkpointing
@each_frozen
def test_hooks_of_embeddings_add_nothing_to_a_step(tiny_model, inputs, frozen, reentrant, order):
    """And change no bit of the loss and the gradients, nor does checkpointing."""
    expected = run_step(freeze(copy.deepcopy(tiny_model), frozen), inputs)
    hooked = freeze(checkpoint(tiny_model, reentrant), frozen)
    unhooked = copy.deepcopy(hooked)
    for module in unhooked.model.visual.modules():
        module._forward_hooks.clear()
    assert_equal_steps(run_step(hooked, inputs), expected)
    assert_equal_steps(run_step(unhooked, inputs), expected)
    assert count_flops(run_step, hooked, inputs) == count_flops(run_step, unhooked, inputs)


@each_checkpointing
def test_a_frozen_up_sampler_is_not_differentiated(tiny_model, inputs, reentrant, order):
    """Also in the second forward pass of a checkpoint."""
    model = freeze(checkpoint(tiny_model, reentrant), ["vision_tower", "upsampler"])
    kind, differentiated = type(model.model.visual.projector.upsampler), []

    def watched(method):  # no hook: hooked layers are called in the plain order
        def call(*arguments):
            levels = method(*arguments)
            differentiated.extend(getattr(level, "sources", level).requires_grad for level in levels)
            return levels

        return call

    methods = {name: watched(getattr(kind, name)) for name in ("forward", "linear_levels")}
    with patch.multiple(kind, **methods):
        run_step(model, inputs)
    assert len(differentiated) == (4 if reentrant is None else 8) and not any(differentiated)


@each_checkpointing
def test_a_frozen_projector_is_projected_once(tiny_model, inputs, reentrant, order):
    model, calls = freeze(checkpoint(tiny_model, reentrant), ["visual"]), []
    model.model.visual.projector.window_attention.projection.register_forward_hook(lambda *_: calls.append(1))
    run_step(model, inputs)
    assert len(calls) == 2  # one for each size of views


@each_checkpointing
@pytest.mark.parametrize("layers", ["0", "1"])
def test_adapters_inside_the_tower_get_their_gradients(tiny_model, inputs, layers, reentrant):
    """Without the hooks of embeddings too, and the layers before them are not differentiated."""
    target = rf".*vision_tower.*layers\.{layers}\.self_attn\.q_proj"
    tiny_model = inject_adapter_in_model(LoraConfig(r=2, target_modules=target), tiny_model)
    for name, parameter in tiny_model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    trained = {name for name, p in tiny_model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    expected = run_step(copy.deepcopy(tiny_model).train(), inputs)
    assert expected[1].keys() == trained and all(gradient.any() for gradient in expected[1].values())
    hooked = checkpoint(copy.deepcopy(tiny_model).train(), reentrant)
    assert_equal_steps(run_step(hooked, inputs), expected)
    hooked.disable_input_require_grads()
    first, seen = hooked.model.visual.vision_tower.encoder.layers[0], []
    first.register_forward_hook(lambda _, __, output: seen.append(output.requires_grad))
    assert_equal_steps(run_step(hooked, inputs), expected)
    assert set(seen) == {layers != "1"}


@each_checkpointing
def test_disabled_adapters_inside_the_tower_leave_it_frozen(tiny_model, inputs, reentrant):
    config = LoraConfig(r=2, target_modules=r".*vision_tower.*q_proj", modules_to_save=["lm_head"])
    model, seen = get_peft_model(checkpoint(tiny_model, reentrant), config).train(), []
    layers = tiny_model.model.visual.vision_tower.encoder.layers
    layers[0].register_forward_hook(lambda _, __, output: seen.append(output.requires_grad))
    run_step(model, inputs)
    assert all(seen)
    seen.clear()
    with model.disable_adapter():
        model(**inputs)
    assert seen and not any(seen)


@each_checkpointing
@each_frozen
def test_pixels_get_gradients_on_request(tiny_model, inputs, frozen, reentrant):
    def pixel_gradients(model):
        pixels = inputs["pixel_values"].clone().requires_grad_()
        run_step(model, inputs | {"pixel_values": pixels})
        return pixels.grad

    expected = pixel_gradients(freeze(copy.deepcopy(tiny_model), []))
    assert expected.any()
    got = pixel_gradients(freeze(checkpoint(tiny_model, reentrant), frozen))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-8)


@each_frozen
def test_inner_states_can_be_made_to_need_gradients_in_evaluation(tiny_model, inputs, frozen):
    """Attribution by hooks inside frozen parts is autograd's, not ours."""
    model, states = freeze(tiny_model, frozen).eval(), []

    def watch(module, arguments, output):
        states.append(output.detach().requires_grad_())
        return states[-1]

    model.model.visual.vision_tower.encoder.layers[0].register_forward_hook(watch)
    run_step(model, inputs)
    assert len(states) == 2 and all(state.grad.any() for state in states)


@each_frozen
def test_frozen_parts_raise_no_warning_about_missing_gradients(tiny_model, inputs, frozen):
    freeze(checkpoint(tiny_model, True), frozen)
    with warnings.catch_warnings(action="error"):
        run_step(tiny_model, inputs)
