# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Rows with one image, with several and with none, for tests with TRL; our own loss of them; LoRA as users set it."""

import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image, List
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForImageTextToText, BatchFeature

from tests.support.finetune_data import draw_image


# sizes of a row's images in pixels (width, height), question, answer: 2x2 slices, two slices, none
SHAPES = [
    ([(112, 112)], "What colour is top left?", "red"),
    ([(112, 56), (40, 56)], "Which of these is wider?", "the first one, by far"),
    ([], "How many colours are there?", "7"),
    ([(40, 56)], "Where is red?", "at the bottom right"),
    ([(56, 112), (112, 112), (112, 56)], "Is there yellow?", "yes"),
    ([], "Say something.", "I have nothing to say about that."),
]
TWO_TURNS = (0, 5)  # rows of `messages_dataset` with a second question
LANGUAGE_MODEL = r"model\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"


def load(folder: str | Path) -> nn.Module:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def lora_config(*in_full: str, **options: Any) -> LoraConfig:
    """LoRA in the language model alone; the modules that are named are trained in full."""
    settings = {"r": 4, "target_modules": LANGUAGE_MODEL, "modules_to_save": [*in_full] or None}
    return LoraConfig(**settings | options)


def turn(role: str, text: str, images: int = 0) -> dict[str, Any]:
    """A message as data sets hold it: places for its images, then text."""
    places = [{"type": "image", "text": None}] * images
    return {"role": role, "content": [*places, {"type": "text", "text": text}]}


def draw_images(sizes: list[tuple[int, int]], seed: int = 0) -> list[Any]:
    source = random.Random(seed)
    return [draw_image(source)[0].resize(size) for size in sizes]


def make_dataset(images: list[list[Any]], **columns: list[Any]) -> Dataset:
    """A data set with a list of images in each row, which may be empty, beside other columns."""
    return Dataset.from_dict({"images": images, **columns}).cast_column("images", List(Image()))


def image_column() -> list[list[Any]]:
    """The images of `SHAPES`."""
    return [draw_images(sizes, seed) for seed, (sizes, _, _) in enumerate(SHAPES)]


def messages_dataset() -> Dataset:
    """Conversations: `messages` and `images`."""
    rows = [[turn("user", question, len(sizes)), turn("assistant", answer)] for sizes, question, answer in SHAPES]
    for row in TWO_TURNS:
        rows[row] += [turn("user", "Are you sure?"), turn("assistant", "quite sure")]
    return make_dataset(image_column(), messages=rows)


def prompt_dataset() -> Dataset:
    """Questions and answers: `prompt`, `completion` and `images`."""
    prompts = [[turn("user", question, len(sizes))] for sizes, question, _ in SHAPES]
    completions = [[turn("assistant", answer)] for _, _, answer in SHAPES]
    return make_dataset(image_column(), prompt=prompts, completion=completions)


def messages_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The whole conversation of a row of either kind."""
    return row["messages"] if "messages" in row else row["prompt"] + row["completion"]


def encode(processor, rows: list[dict[str, Any]], **options: Any) -> BatchFeature:
    """The rows' conversations by the processor alone, padded on the right."""
    images = [row["images"] for row in rows]
    return processor.apply_chat_template(
        [messages_of(row) for row in rows],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "right"} | ({"images": images} if any(images) else {}),
        **options,
    )


@torch.no_grad()
def own_loss(model: nn.Module, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over the labels, from the model's logits."""
    logits = model.eval()(**{name: value for name, value in inputs.items() if name != "labels"}).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
