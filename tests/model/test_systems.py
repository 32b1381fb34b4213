# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Every valid choice of projector, up-sampler and pooling grid in a tiny model; new kinds join by their registry."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration, LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.inference.cost import estimate_cost
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan, num_image_tokens
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import POOLING_GRIDS, PROJECTORS, UPSAMPLERS, Registry
from tests.support.models import set_fixed_weights


PATCH = 14
PLANS = [SlicePlan((1, 2), (56, 42), (42, 70)), SlicePlan((0, 0), (0, 0), (28, 84))]
TINY = {"query_grid": [3, 3], "num_query_sets": 2, "perceiver_grid": [4, 4]}  # where a projector reads them
LEVELS = {"hiwin": [[0, 2]], "uhd_v1": [[0], [1]], "mlp_pyramid": [[0, 1]], "perceiver": [[0, 1]], "mlp": [[0]]}
VARIANTS: dict[str, dict[str, Any]] = {"mlp_pyramid": {"mlp_depth": 1}, "perceiver": {"perceiver_positions": True}}


def built_in(registry: Registry) -> list[str]:
    """The kinds of the package, in the order of their registration."""
    return [name for name in registry if name in registry.built_in]


def systems() -> Iterator[dict[str, Any]]:
    """The valid choices: up-samplers where a level is finer than the tower's, grids where there are windows."""
    for projector in built_in(PROJECTORS):
        options = PROJECTORS[projector].options
        base = {"projector_type": projector, **{name: value for name, value in TINY.items() if name in options}}
        for levels in LEVELS[projector]:
            for upsampler in built_in(UPSAMPLERS) if max(levels) else ["vdim"]:
                for rule in built_in(POOLING_GRIDS) if "pooling_grid_rule" in options else ["selective"]:
                    yield {**base, "levels": levels, "upsampler": upsampler, "pooling_grid_rule": rule}
        if projector in VARIANTS:
            yield {**base, "levels": LEVELS[projector][0], **VARIANTS[projector]}


def name_of(values: dict[str, Any]) -> str:
    return "-".join(str(value) for key, value in values.items() if key not in TINY)


@pytest.fixture(params=list(systems()), ids=name_of)
def model(request, tiny_config) -> LlavaUhdV2ForConditionalGeneration:
    config = LlavaUhdV2Config(**{**tiny_config.to_dict(), "projector_config": request.param})
    model = LlavaUhdV2ForConditionalGeneration(config).eval()
    set_fixed_weights(model)
    return model


def make_inputs(config: LlavaUhdV2Config, plans: list[SlicePlan]) -> dict[str, torch.Tensor]:
    """A prompt with each image, and one without; padded on the left."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for plan in [*plans, None]:
        text = torch.randint(3, 290, (6,), generator=generator)
        rows.append(torch.cat([text[:2], torch.full((count_tokens(config, plan),), config.image_token_id), text[2:]]))
    longest = max(map(len, rows))
    padded = torch.stack([torch.cat([torch.zeros(longest - len(row)).long(), row]) for row in rows])
    patches = max(plan.num_patches(PATCH) for plan in plans)
    return {
        "input_ids": padded,
        "attention_mask": torch.stack([(torch.arange(longest) >= longest - len(row)).long() for row in rows]),
        "pixel_values": torch.randn(len(plans), patches, 3 * PATCH**2, generator=generator),
        "image_sizes": torch.tensor([plan.to_image_size() for plan in plans]),
    }


def count_tokens(config: LlavaUhdV2Config, plan: SlicePlan | None) -> int:
    if plan is None:
        return 0
    grid, overview = config.projector_config.token_grids(plan, PATCH)
    return num_image_tokens(plan, query_grid=grid, overview_grid=overview, layout=config.token_layout)


@torch.no_grad()
def test_saved_and_loaded_it_computes_the_same(model, tmp_path):
    inputs = make_inputs(model.config, PLANS)
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    saved, again = model.config.projector_config, loaded.config.projector_config
    assert all(getattr(saved, name) == getattr(again, name) for name in LlavaUhdV2ProjectorConfig.__annotations__)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@torch.no_grad()
def test_cost_counts_the_tokens_that_are_made(model):
    inputs = make_inputs(model.config, PLANS)
    images = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output
    cost = estimate_cost(PLANS, model.config, torch.float32)
    assert cost.num_image_tokens == sum(map(len, images)) == (inputs["input_ids"] == 300).sum()
    assert cost.vision_bytes > 0


@torch.no_grad()
def test_answers_are_the_same_alone_and_in_a_mixed_batch(model):
    inputs = make_inputs(model.config, PLANS)
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    start = inputs["input_ids"].shape[1]
    together = model.generate(**inputs, **options)[:, start:]
    for row, plan in enumerate([*PLANS, None]):
        seen = inputs["attention_mask"][row].bool()
        images = {}
        if plan is not None:
            images = {name: inputs[name][row : row + 1] for name in ("pixel_values", "image_sizes")}
        alone = model.generate(input_ids=inputs["input_ids"][row : row + 1, seen], **images, **options)
        assert alone[0, seen.sum() :].tolist() == together[row].tolist()


def test_every_trained_parameter_gets_a_finite_gradient(model):
    inputs = make_inputs(model.config, PLANS)
    model.train()(**inputs, labels=inputs["input_ids"].where(inputs["input_ids"] < 300, -100)).loss.backward()
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    without = [name for name, weight in trained.items() if weight.grad is None or not weight.grad.isfinite().all()]
    assert without == []
    projector = [weight.grad for name, weight in trained.items() if ".projector." in name]
    assert projector and sum(gradient.any() for gradient in projector) > len(projector) / 2


def test_a_projector_without_products_of_weights_can_not_be_folded(model):
    kind = model.config.projector_config.projector_type
    if kind != "hiwin":
        with pytest.raises(ValueError, match=f"`{kind}` has no products of weights"):
            model.fold_projector()
    elif model.model.visual.projector.upsampler.linear_levels is None:
        with pytest.raises(ValueError, match="not linear"):
            model.fold_projector()
    else:
        model.fold_projector()
    model.unfold_projector()


def test_invalid_choices_are_refused():
    valid = list(systems())
    assert len(valid) < 200
    refused = 0
    for projector in built_in(PROJECTORS):
        options = PROJECTORS[projector].options
        for rule in built_in(POOLING_GRIDS)[1:]:
            if "pooling_grid_rule" not in options:
                with pytest.raises(ValueError, match="`pooling_grid_rule`"):
                    LlavaUhdV2ProjectorConfig(projector_type=projector, pooling_grid_rule=rule)
        for levels in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2], [0, 1, 2, 3], [0, 3]):
            values = {"projector_type": projector, "levels": copy.copy(levels)}
            if tuple(levels) in PROJECTORS[projector].supported_levels:
                assert LlavaUhdV2ProjectorConfig(**values).levels == levels
            else:
                refused += 1
                with pytest.raises(ValueError, match="`levels`"):
                    LlavaUhdV2ProjectorConfig(**values)
    assert refused
