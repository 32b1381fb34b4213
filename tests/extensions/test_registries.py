# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What kinds from outside can get wrong, and what keeps their weights and layers right all the same."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText

from llava_uhd_v2_hf import LlavaUhdV2ForConditionalGeneration
from llava_uhd_v2_hf.inference.cost import estimate_vision_bytes
from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module
from llava_uhd_v2_hf.model.operators_llava_uhd_v2 import Level, map_sources
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import POOLING_GRIDS, PROJECTORS, UPSAMPLERS
from llava_uhd_v2_hf.model.upsamplers_bilinear_llava_uhd_v2 import LlavaUhdV2BilinearUpsampler
from tests.extensions.outside.patch_mlp import PatchMlp
from tests.support.finetune_data import write_checkpoint
from tests.support.journeys import prepare


class Blurred(LlavaUhdV2BilinearUpsampler):
    """With a constant that is no weight."""

    def __init__(self, config, channels):
        super().__init__(config, channels)
        self.register_buffer("scale", torch.full((1,), 0.5), persistent=False)

    def reset_parameters(self):
        self.scale.fill_(0.5)


class Mixed(LlavaUhdV2BilinearUpsampler):
    """Linear, with a layer whose weight is read in one order and that is called in the other."""

    def __init__(self, config, channels):
        super().__init__(config, channels)
        self.mix = nn.Linear(channels, channels, bias=False)

    def reset_parameters(self):
        self.mix.reset_parameters()

    def forward(self, features, pixels):
        return super().forward(self.mix(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), pixels)

    def linear_levels(self, features, pixels):
        levels = super().linear_levels(features, pixels)
        sources = map_sources(features) @ self.mix.weight.T
        return [Level(sources, axes=level.axes) for level in levels]


class InPlace(PatchMlp):
    """Writes its initial weights past every initialiser."""

    def reset_parameters(self):
        for parameter in self.parameters():
            parameter.data.normal_()


def test_buffers_that_are_not_saved_are_filled_after_loading(monkeypatch, tmp_path):
    monkeypatch.setitem(UPSAMPLERS, "blurred", Blurred)
    folder = write_checkpoint(tmp_path / "model", width=32, projector={"upsampler": "blurred"})
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.model.visual.projector.upsampler.scale.tolist() == [0.5]
    expected = load_file(folder / "model.safetensors")
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())


def test_loaded_weights_stay_whatever_initialises_the_missing_ones(monkeypatch, tmp_path):
    monkeypatch.setitem(PROJECTORS, "in_place", InPlace)
    folder = write_checkpoint(tmp_path / "model", width=32, projector={"projector_type": "in_place"})
    weights = load_file(folder / "model.safetensors")
    missing = "model.visual.projector.expand.bias"
    save_file(
        {name: weights[name] for name in weights if name != missing}, folder / "model.safetensors", {"format": "pt"}
    )
    loaded = AutoModelForImageTextToText.from_pretrained(folder).state_dict()
    assert [name for name in weights if not torch.equal(loaded[name], weights[name])] == [missing]


@torch.no_grad()
def test_lora_in_a_linear_up_sampler_acts(mid_projector, monkeypatch):
    monkeypatch.setitem(UPSAMPLERS, "mixed", Mixed)
    projector, features, pixels = mid_projector(upsampler="mixed")
    calls, original = [], projector_module.project_views
    monkeypatch.setattr(projector_module, "project_views", lambda *args: calls.append(1) or original(*args))
    [before] = projector([features], [pixels])
    assert calls == [1]
    config = LoraConfig(target_modules=r".*upsampler\.mix", init_lora_weights=False)
    adapted = get_peft_model(projector, config).base_model.model
    [tokens] = adapted([features], [pixels])
    assert calls == [1] and (tokens - before).abs().max() > 1e-3
    torch.testing.assert_close(tokens, adapted([features], [pixels], plain=True)[0], rtol=0, atol=1e-5)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="The up-sampler `vdim` is registered already.*another name"):
        UPSAMPLERS["vdim"] = Mixed
    UPSAMPLERS["bilinear"]
    with pytest.raises(ValueError, match="`bilinear` is registered already"):
        UPSAMPLERS["bilinear"] = Mixed
    again = type("PatchMlp", (nn.Module,), {"__module__": PatchMlp.__module__})
    PROJECTORS["patch_mlp"] = again  # of a module that is imported again
    PROJECTORS["patch_mlp"] = PatchMlp


@pytest.mark.parametrize("grid", [(0, 2), (2.0, 2.0), (2, 2, 2)])
def test_grids_that_are_none_are_named(grid, mid_projector, monkeypatch):
    monkeypatch.setitem(POOLING_GRIDS, "odd", lambda height, width, level, candidates: grid)
    projector, features, pixels = mid_projector(pooling_grid_rule="odd")
    with pytest.raises(ValueError, match=r"pooling grids `odd` must return \(rows, columns\)"):
        projector([features], [pixels])


def test_a_list_is_a_grid(mid_projector, monkeypatch):
    monkeypatch.setitem(POOLING_GRIDS, "listed", lambda height, width, level, candidates: candidates[0])
    projector, features, pixels = mid_projector(pooling_grid_rule="listed")
    assert projector([features], [pixels])[0].shape == (2, 144, 512)


def test_more_tokens_than_the_grid_has_are_named(monkeypatch, tmp_path):
    class Doubled(PatchMlp):
        def forward(self, features, pixels):
            return tuple(tokens.repeat(1, 2, 1) for tokens in super().forward(features, pixels))

    monkeypatch.setitem(PROJECTORS, "doubled", Doubled)
    folder = write_checkpoint(tmp_path / "model", width=32, projector={"projector_type": "doubled"})
    model = AutoModelForImageTextToText.from_pretrained(folder)
    with pytest.raises(ValueError, match="`doubled` made .* tokens of a view.*but its `token_grid` is"):
        model(**prepare(folder))


def test_a_grid_may_depend_on_any_field(monkeypatch, tmp_path):
    class Repeated(PatchMlp):
        @staticmethod
        def token_grid(config, height, width):
            return height * config.num_query_sets, width

        def __init__(self, config):
            super().__init__(config)
            self.times = config.projector_config.num_query_sets

        def forward(self, features, pixels):
            return tuple(tokens.repeat(1, self.times, 1) for tokens in super().forward(features, pixels))

    monkeypatch.setitem(PROJECTORS, "repeated", Repeated)
    projector = {"projector_type": "repeated", "num_query_sets": 3}
    folder = write_checkpoint(tmp_path / "model", width=32, projector=projector)
    model, inputs = AutoModelForImageTextToText.from_pretrained(folder), prepare(folder)
    patches = int(inputs["image_sizes"][0, 4] // 14 * (inputs["image_sizes"][0, 5] // 14))
    marks = (inputs["input_ids"] == model.config.image_token_id).sum()
    assert inputs["image_sizes"][0, 0] and marks > 3 * patches  # the overview alone has three tokens a patch
    assert model(**inputs).logits.isfinite().all()


def test_memory_counts_the_order_that_runs(tiny_config, monkeypatch):
    monkeypatch.setitem(POOLING_GRIDS, "fine", lambda height, width, level, candidates: (6 << level, 6 << level))
    config = LlavaUhdV2ForConditionalGeneration(tiny_config).config
    views = {(336, 336): 1}
    reordered = estimate_vision_bytes(views, config, torch.float32)
    config.projector_config.pooling_grid_rule = "fine"
    queries, width = math.prod(config.projector_config.query_grid), config.text_config.hidden_size
    keys = queries * (6**2 + 12**2 + 24**2) * width * 4
    assert estimate_vision_bytes(views, config, torch.float32) > max(keys, reordered / 10)
