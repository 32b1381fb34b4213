# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Rows for TRL's DPO and GRPO, and log-probabilities of answers from passes of our own, a row at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import BatchFeature, ProcessorMixin

from tests.ecosystem.trl_data import SHAPES, image_column, make_dataset


def preference_dataset(rows: Sequence[int]) -> Dataset:
    """Some of `SHAPES`, with the answer to the next as the rejected one."""
    images, questions, answers = image_column(), [row[1] for row in SHAPES], [row[2] for row in SHAPES]
    return make_dataset(
        [images[row] for row in rows],
        prompt=[[{"role": "user", "content": questions[row]}] for row in rows],
        chosen=[[{"role": "assistant", "content": answers[row]}] for row in rows],
        rejected=[[{"role": "assistant", "content": answers[row - 1]}] for row in rows],
    )


def render(processor: ProcessorMixin, row: dict[str, Any], answer: Sequence[dict[str, Any]] = ()) -> BatchFeature:
    """What our processor makes of a row: its prompt, or the prompt with an answer."""
    [question] = row["prompt"]
    images = [{"type": "image", "image": image} for image in row.get("images", [])]
    return processor.apply_chat_template(
        [{"role": "user", "content": [*images, {"type": "text", "text": question["content"]}]}, *answer],
        add_generation_prompt=not answer,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def log_probs(model: nn.Module, inputs: dict[str, torch.Tensor], start: int) -> torch.Tensor:
    """Of the tokens from `start` on."""
    logits = model(**inputs).logits[0, start - 1 : -1]
    return logits.log_softmax(-1).gather(1, inputs["input_ids"][0, start:, None])[:, 0]


def freeze_tower(model: nn.Module) -> nn.Module:
    model.model.visual.vision_tower.requires_grad_(False)
    return model


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def train_and_compare(trainer) -> None:
    """Trains, and checks that everything that is to be trained has changed and that all else is bit-equal."""
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == trained_parameters(trainer.model).keys()
