# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A tiny model, its inputs and what it makes of them, for tests with PEFT and accelerate."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature


SHAPES = [(40, 60), (190, 70), (100, 130), (56, 200)]  # width, height: not sliced, wide, almost square, tall


def load(folder: Path, **options) -> nn.Module:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, **options)


def draw(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), (width, height, 30))
    ImageDraw.Draw(image).ellipse((width // 4, height // 4, width // 2, height - 5), fill=(30, 200, width))
    return image


def make_inputs(folder: Path) -> BatchFeature:
    """Three prompts, padded on the left: with one image, two and one."""
    first, *two, last = (draw(*shape) for shape in SHAPES)
    words = ["What colour is top left? ASSISTANT:", "Where is red? ASSISTANT:", "ASSISTANT:"]
    images = [[first], two, [last]]
    texts = [f"USER: {'<image>' * len(own)}\n{text}" for own, text in zip(images, words)]
    return AutoProcessor.from_pretrained(folder)(images=images, text=texts, padding=True, return_tensors="pt")


@torch.no_grad()
def logits_of(model: nn.Module, inputs: BatchFeature, **options) -> torch.Tensor:
    """Those of tokens, without those of padding."""
    return model.eval()(**inputs, **options).logits * inputs["attention_mask"].unsqueeze(-1)


def answers_of(model: nn.Module, inputs: BatchFeature, **options) -> torch.Tensor:
    """Eight tokens for each prompt."""
    length = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    return model.eval().generate(**inputs, **length, **options)[:, inputs["input_ids"].shape[1] :]
