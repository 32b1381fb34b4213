# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A projector from one file outside the package, with as many tokens as a view has patches."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava_uhd_v2_hf import LlavaUhdV2ForConditionalGeneration, LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.inference.inspection import inspect_image
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import PROJECTORS
from llava_uhd_v2_hf.pictures.attention import place_weights
from llava_uhd_v2_hf.pictures.pyramid import PyramidParts
from tests.extensions.outside import patch_mlp
from tests.support.journeys import Journey, picture, prepare


class TestPatchMlp(Journey):
    changes = {"projector": {"projector_type": "patch_mlp"}}
    named_by = ("projector_config", "projector_type")
    trained = "projector."
    targets = r".*(projector\.(expand|project)|language_model.*q_proj)"
    extension = patch_mlp.__name__

    def test_a_token_stands_for_each_patch_in_its_place(self, checkpoint):
        processor = AutoProcessor.from_pretrained(checkpoint)
        plan = processor.image_processor.slice_plan(picture().height, picture().width)
        (rows, columns), (height, width) = plan.grid, (side // 14 for side in plan.slice_size)
        overview = (plan.overview_size[0] // 14) * (plan.overview_size[1] // 14)
        assert (height, width) != (plan.overview_size[0] // 14, plan.overview_size[1] // 14)
        separators = rows * height + 1  # one a line of the woven slices, one behind them
        ids = prepare(checkpoint)["input_ids"]
        expected = rows * columns * height * width + separators + overview
        assert (ids == processor.image_token_id).sum() == expected

    @torch.no_grad()
    def test_attention_is_drawn_at_the_patches(self, checkpoint):
        model, processor = (
            AutoModelForImageTextToText.from_pretrained(checkpoint),
            AutoProcessor.from_pretrained(checkpoint),
        )
        inspection = inspect_image(picture(), processor.image_processor, model.config)
        maps = place_weights(torch.arange(len(inspection.order)).float(), inspection)
        assert maps.slices.shape[1:] == inspection.token_grid
        last = len(inspection.order) - maps.overview.size
        assert maps.overview.flatten().tolist() == list(range(last, len(inspection.order)))

    def test_what_the_projector_does_not_have_is_refused(self, checkpoint):
        model = AutoModelForImageTextToText.from_pretrained(checkpoint)
        with pytest.raises(ValueError, match="`patch_mlp` has no products of weights"):
            model.fold_projector()
        model.unfold_projector()
        with pytest.raises(ValueError, match="`patch_mlp` has no feature pyramid"):
            PyramidParts.of_model(model, AutoProcessor.from_pretrained(checkpoint).image_processor)


def test_names_and_interfaces_are_checked(tiny_config, monkeypatch):
    with pytest.raises(ValueError, match=r"`projector_type`.*`mlp9` is not supported.*hiwin.*patch_mlp"):
        LlavaUhdV2ProjectorConfig(projector_type="mlp9")
    monkeypatch.setitem(PROJECTORS, "empty", type("Empty", (nn.Module,), {}))
    tiny_config.projector_config.projector_type = "empty"
    with pytest.raises(ValueError, match=r"lacks forward, reset_parameters, token_grid, regions, memory, dtype"):
        LlavaUhdV2ForConditionalGeneration(tiny_config)
