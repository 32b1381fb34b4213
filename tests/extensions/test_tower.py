# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A vision tower from one file outside the package: ViT of transformers."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, BeitConfig

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration
from llava_uhd_v2_hf.inference.towers import load_tower, tower_features
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import TOWERS
from tests.extensions.outside import vit_tower
from tests.support.journeys import Journey


class TestVit(Journey):
    changes = {"vision": {"model_type": "vit"}}
    named_by = ("vision_config", "model_type")
    targets = r".*(vision_tower.*0.attention.[qv]_proj|language_model.*q_proj)"
    extension = vit_tower.__name__

    @torch.no_grad()
    def test_features_are_the_towers_own(self, checkpoint, tmp_path):
        visual = AutoModelForImageTextToText.from_pretrained(checkpoint).model.visual.eval()
        visual.vision_tower.save_pretrained(tmp_path)
        network, config = load_tower(str(tmp_path), -2)
        pixels = torch.randn(2, 3, 28, 70, generator=torch.Generator().manual_seed(0))
        whole = network(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
        expected = whole.hidden_states[-2][:, 1:].mT.unflatten(2, (2, 5))
        torch.testing.assert_close(tower_features(network, pixels, config), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            visual.encode_views(pixels)[-1].mT.unflatten(2, (2, 5)), expected, rtol=0, atol=1e-5
        )


def test_names_and_interfaces_are_checked(tiny_config, monkeypatch):
    with pytest.raises(
        ValueError, match=r"`vision_config.model_type`.*`beit` is not supported.*clip_vision_model.*vit"
    ):
        LlavaUhdV2Config(vision_config={"model_type": "beit"})
    monkeypatch.setitem(TOWERS, "beit", type("Bare", (), {"embed": None}))
    tiny_config.vision_config = BeitConfig(hidden_size=32, num_attention_heads=2)
    with pytest.raises(ValueError, match="vision tower `beit`.*lacks run_layers, patches, feature_map"):
        LlavaUhdV2ForConditionalGeneration(tiny_config)
