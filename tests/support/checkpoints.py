# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Tiny checkpoint folders in the authors' layout, and what the tests of conversion do with them."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file, save_file
from transformers import AutoImageProcessor

from llava_uhd_v2_hf.conversion.convert import convert_checkpoint
from tests.support.paths import GOLDEN


IMAGE = -200  # the released code's mark for an image in input_ids
EXPECTED = {
    "a_llama_permute": {"token_layout": "spatial", "levels": [0, 1, 2], "text": "llama", "image_suffix": " "},
    "b_qwen2": {"token_layout": "sequential", "levels": [0, 2], "text": "qwen2", "image_suffix": ""},
    "c_llama": {"token_layout": "sequential", "levels": [0, 2], "text": "llama", "image_suffix": " "},
}


def write_released(reference: Path, name: str, folder: Path) -> Path:
    """A folder in the released layout, with a toy tokenizer and the tower's config."""
    recorded = reference / "e2e" / name / "checkpoint"
    if not recorded.is_dir() and reference == GOLDEN:
        pytest.skip(f"{name} is not in the committed subset of the recordings")
    tokenizer = "byte_level_qwen_like" if EXPECTED[name]["text"] == "qwen2" else "sentencepiece_llama_like"
    folder.mkdir()
    for path in [*recorded.glob("*.json"), *(reference / "tokenizers" / tokenizer).iterdir()]:
        shutil.copyfile(path, folder / path.name)
    with gzip.open(recorded / "model.safetensors.gz") as packed, open(folder / "model.safetensors", "wb") as target:
        shutil.copyfileobj(packed, target)
    return folder


def convert(source: Path, output: Path, **kwargs) -> Path:
    convert_checkpoint(source, output, **{"vision_config": source / "vision_tower_config.json"} | kwargs)
    return output


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    shards = [load(path.read_bytes()) for path in folder.glob("*.safetensors")]
    return {name: tensor for shard in shards for name, tensor in shard.items()}


def write_logits(folder: Path, path: Path) -> None:
    """A recorded case as a file of inputs and logits: one image, its logits at some positions for some ids."""
    recorded = GOLDEN / "e2e/c_llama"
    outputs, tensors = json.loads((recorded / "outputs.json").read_text()), load_file(recorded / "outputs.safetensors")
    [case] = [case for case in outputs["cases"] if len(case["samples"]) == 1 and case["samples"][0]["image"]][:1]
    image = outputs["images"][case["samples"][0]["image"]]["file"]
    inputs = AutoImageProcessor.from_pretrained(folder)(Image.open(recorded / image), return_tensors="pt")
    image_token = json.loads((folder / "config.json").read_text())["image_token_id"]
    [row] = tensors[f"{case['name']}.input_ids"].tolist()
    run = [image_token] * (case["merged_length"] - len(row) + 1)
    ids = [token for one in row for token in (run if one == IMAGE else [one])]
    save_file(
        {
            "input_ids": torch.tensor([ids]),
            "pixel_values": inputs["pixel_values"],
            "image_sizes": inputs["image_sizes"],
            "positions": tensors[f"{case['name']}.logit_positions"],
            "ids": torch.tensor(outputs["active_ids"]),
            "logits": tensors[f"{case['name']}.logits_active"],
        },
        path,
    )
