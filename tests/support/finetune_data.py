# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Data and checkpoints for tests of fine-tuning: questions that only the image answers, and a tiny model."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image, ImageDraw
from transformers import LlamaConfig

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration
from llava_uhd_v2_hf.conversion.processor_files import build_generation_config, build_processor, load_tokenizer
from llava_uhd_v2_hf.model.chat_templates_llava_uhd_v2 import VICUNA_V1_TEMPLATE
from tests.support.paths import GOLDEN


TOKENIZER = GOLDEN / "tokenizers/sentencepiece_llama_like"
SIZE, PATCH = 56, 14  # of a slice and of a patch, in pixels
COLOURS = {
    "red": (230, 20, 20),
    "green": (20, 180, 40),
    "blue": (20, 50, 240),
    "white": (250, 250, 250),
    "yellow": (240, 230, 20),
    "purple": (140, 20, 200),
}
PLACES = ("top left", "top right", "bottom left", "bottom right")  # each a slice of its own
QUESTIONS = (
    "What colour is top left?",  # one slice
    "What colour is top right?",
    "What colour is bottom right?",
    "Where is red?",  # a place among the slices
)
# of an answer that belongs to another image: red is in each, three of the other five colours are
CHANCE = (3 * ((1 / 4) ** 2 + 5 * (3 / 20) ** 2) + 1 / 4) / 4


def draw_image(source: random.Random) -> tuple[Image.Image, tuple[str, ...]]:
    """Two by two slices with a square in each, of four colours, and the answers to `QUESTIONS`."""
    image = Image.new("RGB", (2 * SIZE, 2 * SIZE), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    others = [colour for colour in COLOURS if colour != "red"]
    colours = source.sample(["red", *source.sample(others, 3)], 4)
    for place, colour in enumerate(colours):
        top, left = (SIZE * side + source.randint(0, 6) for side in divmod(place, 2))
        draw.rectangle((left, top, left + 49, top + 49), fill=COLOURS[colour])
    return image, (colours[0], colours[1], colours[3], PLACES[colours.index("red")])


def write_samples(folder: Path, images: int, seed: int = 0, questions: int = 4) -> Path:
    """Images, and the file of the samples: some of the questions about each."""
    folder.mkdir(parents=True)
    source, records = random.Random(seed), []
    for number in range(images):
        image, answers = draw_image(source)
        image.save(folder / f"{number:03d}.png")
        for offset in range(questions):
            index = (number + offset) % len(QUESTIONS)
            turns = [
                {"from": "human", "value": f"<image>\n{QUESTIONS[index]}"},
                {"from": "gpt", "value": answers[index]},
            ]
            records.append({"id": len(records), "image": f"{number:03d}.png", "conversations": turns})
    (folder / "samples.json").write_text(json.dumps(records))
    return folder / "samples.json"


def permute_images(samples: Path, seed: int = 0) -> Path:
    """The same samples with the images of others."""
    records = json.loads(samples.read_text())
    images = [record["image"] for record in records]
    random.Random(seed).shuffle(images)
    permuted = samples.with_name("permuted.json")
    permuted.write_text(json.dumps([{**record, "image": image} for record, image in zip(records, images)]))
    return permuted


def write_checkpoint(
    folder: Path,
    width: int = 64,
    seed: int = 0,
    vision: Mapping[str, Any] = MappingProxyType({}),
    text: Mapping[str, Any] = MappingProxyType({}),
    projector: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """A tiny model with random weights, complete with processor; `vision`, `text`, `projector` change its config."""
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = LlavaUhdV2Config(
        vision_config={"model_type": "clip_vision_model", "image_size": SIZE, "patch_size": PATCH, **sizes, **vision},
        text_config={
            "model_type": "llama",
            "num_key_value_heads": 4,
            "vocab_size": 600,
            "max_position_embeddings": 1024,
            "initializer_range": 0.1,
            **sizes,
            **text,
        },
        projector_config={
            "query_grid": [2, 2],
            "num_attention_heads": 4,
            "num_query_sets": 1,
            "levels": [0, 1],
            **projector,
        },
        image_token_id=0,
        row_separator_id=13,
        slice_separator_id=44,
    )
    tokenizer = load_tokenizer(TOKENIZER, LlamaConfig())
    tokenizer.chat_template = VICUNA_V1_TEMPLATE
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config.text_config.vocab_size = len(tokenizer)
    torch.manual_seed(seed)
    model = LlavaUhdV2ForConditionalGeneration(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(4)  # a frozen head must be able to be sure
    model.generation_config = build_generation_config(folder, config, tokenizer, len(tokenizer))
    model.save_pretrained(folder)
    build_processor(config, tokenizer).save_pretrained(folder)
    return folder
