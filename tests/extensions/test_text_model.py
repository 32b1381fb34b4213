# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A text model that the package does not name: any causal language model of transformers with a linear head."""

from transformers import AutoModelForImageTextToText

from tests.support.journeys import Journey


class TestOlmo2(Journey):
    changes = {"text": {"model_type": "olmo2", "eos_token_id": 2, "pad_token_id": 0}}
    named_by = ("text_config", "model_type")
    trained = "language_model.layers.0.self_attn.q_proj"

    def test_it_is_the_text_model(self, checkpoint):
        model = AutoModelForImageTextToText.from_pretrained(checkpoint)
        assert type(model.model.language_model).__name__ == "Olmo2Model"
