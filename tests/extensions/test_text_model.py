# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A text model that the package does not name: any causal language model of transformers with a linear head."""

import pytest
from transformers import AutoModelForImageTextToText

from tests.support.finetune_data import write_checkpoint
from tests.support.journeys import (
    check_cost_and_inspection,
    check_export,
    check_generation,
    check_lora,
    check_saving,
    check_training,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    text = {"model_type": "olmo2", "eos_token_id": 2, "pad_token_id": 0}
    return write_checkpoint(tmp_path_factory.mktemp("olmo2") / "model", width=32, text=text)


def test_saving_and_loading(checkpoint, tmp_path):
    check_saving(checkpoint, tmp_path, "text_config", "model_type", "olmo2")


def test_generation(checkpoint):
    check_generation(checkpoint)


def test_cost_and_inspection(checkpoint, tmp_path):
    check_cost_and_inspection(checkpoint, tmp_path)


def test_training(checkpoint, samples, tmp_path):
    check_training(checkpoint, samples, tmp_path, "language_model.layers.0.self_attn.q_proj")


def test_lora_with_merge(checkpoint):
    check_lora(checkpoint, r".*(window_attention\.(key|value)|language_model.*q_proj)")


@pytest.mark.slow
def test_export_with_code(checkpoint, tmp_path):
    check_export(checkpoint, tmp_path, "")


def test_it_is_the_text_model(checkpoint):
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    assert type(model.model.language_model).__name__ == "Olmo2Model"
