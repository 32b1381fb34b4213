# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The projectors that the paper compares with: recordings of the authors' classes, tokens, memory, initial weights."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.conversion.projector_map import PROJECTOR, RELEASED_PROJECTOR, projector_rules
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import PROJECTORS
from tests.support.models import set_fixed_weights
from tests.support.recordings import read_recording, under_our_names


# recorded module -> our config; of those with a mask the levels are read from it
KINDS = {
    "v1": {"projector_type": "uhd_v1"},
    "mlp_v2": {"projector_type": "mlp_pyramid", "mlp_depth": 2},
    "mlp144": {"projector_type": "mlp_pyramid", "mlp_depth": 1},
    "perceiver": {"projector_type": "perceiver"},
    "perceiver_mask5": {"projector_type": "perceiver"},
}
SMALL = {"query_grid": [3, 3], "num_attention_heads": 2}
# every kind and option, at levels that it takes
PROJECTOR_CONFIGS = [
    {"projector_type": "hiwin", "levels": [0, 2], **SMALL},
    {"projector_type": "uhd_v1", **SMALL},
    {"projector_type": "uhd_v1", "levels": [2], **SMALL},
    {"projector_type": "mlp_pyramid", **SMALL},
    {"projector_type": "mlp_pyramid", "mlp_depth": 1, "levels": [0, 1], **SMALL},
    {"projector_type": "perceiver", "levels": [0, 1], "perceiver_grid": [4, 4], **SMALL},
    {"projector_type": "perceiver", "levels": [0], "perceiver_grid": [4, 5], "perceiver_positions": True, **SMALL},
    {"projector_type": "mlp", "num_attention_heads": 2},
]
EVERY_KIND = pytest.mark.parametrize(
    "values", PROJECTOR_CONFIGS, ids=lambda values: "-".join(map(str, values.values()))
)


def build(channels: int, width: int, **values) -> nn.Module:
    """A projector with fixed weights, in evaluation mode."""
    sizes = {"num_attention_heads": 2, "num_hidden_layers": 2}
    config = LlavaUhdV2Config(
        vision_config={"hidden_size": channels, "intermediate_size": channels, "patch_size": 14, **sizes},
        text_config={"hidden_size": width, "intermediate_size": width, "vocab_size": 32001, **sizes},
        projector_config=values,
    )
    projector = PROJECTORS[config.projector_config.projector_type](config).eval()
    set_fixed_weights(projector)
    return projector


def config_of(case: dict) -> LlavaUhdV2ProjectorConfig:
    mask = case.get("mask", 1)
    levels = [level for level in range(4) if mask & 2**level]
    return LlavaUhdV2ProjectorConfig(**KINDS[case["module"]], levels=levels, num_attention_heads=2)


def released_weights(tensors: dict[str, torch.Tensor], module: str) -> dict[str, torch.Tensor]:
    return {
        RELEASED_PROJECTOR + name.removeprefix(f"{module}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{module}.") and ".output_" not in name
    }


@torch.no_grad()
@pytest.mark.parametrize("module", KINDS)
def test_tokens_are_those_of_the_authors_classes(reference, module):
    facts, tensors = read_recording(reference, "baselines")
    for case in [case for case in facts["cases"] if case["module"] == module]:
        config, (height, width) = config_of(case), case["size_hw"]
        projector = build(facts["mm_hidden_size"], facts["embed_dim"], **config.to_diff_dict())
        state = under_our_names(released_weights(tensors, module), config, PROJECTOR)
        report = projector.load_state_dict(state, strict=False)
        assert not report.unexpected_keys and all(name.startswith("upsampler.") for name in report.missing_keys)
        levels = [tensors[f"features_{2**level}x_{height}x{width}"] for level in config.levels]
        # view after view and together
        for views in (1, 2):
            for tokens in projector.make_tokens([level.expand(views, -1, -1, -1) for level in levels]):
                torch.testing.assert_close(tokens, tensors[case["output"]], rtol=0, atol=1e-4)


@pytest.mark.parametrize("module", KINDS)
def test_released_weights_come_back_bit_for_bit(reference, module):
    facts, tensors = read_recording(reference, "baselines")
    released, back = released_weights(tensors, module), {}
    if not released:
        pytest.skip(f"{module} is not in the committed subset of the recordings")
    case = next(case for case in facts["cases"] if case["module"] == module)
    for rule in projector_rules(config_of(case)):
        if all(name in released for name in rule.released):
            ours = rule.to_ours([released[name] for name in rule.released])
            back |= rule.to_released([ours[name] for name in rule.ours])
    assert back.keys() == released.keys()
    assert all(torch.equal(back[name], released[name]) for name in released)


@torch.no_grad()
@EVERY_KIND
def test_tokens_do_not_depend_on_the_batch(values):
    projector = build(32, 64, **values)
    torch.manual_seed(0)
    features = [torch.randn(2, 32, 5, 4), torch.randn(1, 32, 1, 7)]
    pixels = [torch.randn(2, 3, 70, 56), torch.randn(1, 3, 14, 98)]
    together = projector(features, pixels)
    for maps, views, tokens in zip(features, pixels, together, strict=True):
        for index in range(len(maps)):
            [alone] = projector([maps[index : index + 1]], [views[index : index + 1]])
            torch.testing.assert_close(tokens[index : index + 1], alone, rtol=0, atol=1e-5)


@EVERY_KIND
@pytest.mark.parametrize("reentrant", [False, True])
def test_every_parameter_gets_the_same_gradient_with_checkpointing(values, reentrant):
    projector = build(32, 64, **values).double().train()
    for module in projector.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch.manual_seed(0)
    features, pixels = torch.randn(2, 32, 5, 4).double(), torch.randn(2, 3, 70, 56).double()

    def gradients() -> dict[str, torch.Tensor]:
        projector.zero_grad()
        [tokens] = projector([features], [pixels])
        (tokens * torch.arange(tokens.numel()).view_as(tokens).cos()).sum().backward()
        return {name: parameter.grad for name, parameter in projector.named_parameters()}

    expected = gradients()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in expected.values())
    projector.gradient_checkpointing = True
    projector._gradient_checkpointing_func = partial(checkpoint, use_reentrant=reentrant)
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-9)


def expected_deviations(projector: nn.Module, width: int) -> dict[str, float]:
    """The standard deviation of every matrix of a new projector, as the released code initialises it."""
    found = {}
    for name, parameter in projector.named_parameters():
        last = name.rpartition(".")[0].rpartition(".")[2]
        if name.startswith("upsampler.stages.") or parameter.ndim < 2 or "embeddings" in name:
            continue
        if last in ("query", "key", "value"):
            found[name] = (2 * width) ** -0.5
        elif name.endswith("projection.weight") and parameter.shape[0] == parameter.shape[1] and last == "projection":
            found[name] = width**-0.5
        elif "fixups" in name or "layers" in name or last == "expand":
            found[name] = parameter.shape[1] ** -0.5 / 3**0.5
        else:
            found[name] = 0.02
    return found


@EVERY_KIND
def test_initial_weights_have_the_deviations_of_the_authors(values):
    projector = build(160, 512, **values)
    torch.manual_seed(0)
    with torch.no_grad():
        projector.reset_parameters()
    deviations = expected_deviations(projector, 512)
    if values["projector_type"] == "mlp":  # both layers as PyTorch's default
        deviations["projection.weight"] = 512**-0.5 / 3**0.5
    assert deviations
    for name, expected in deviations.items():
        weight = projector.get_parameter(name)
        if weight.numel() > 10_000:
            assert math.isclose(weight.std().item(), expected, rel_tol=0.02), (name, weight.std(), expected)
