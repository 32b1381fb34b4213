# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The vision tower, trained to say which character covers each small cell of a page: what pre-training is to CLIP.

python examples/nano/tower.py FOLDER [--steps N] [--batch-size N] [--workers N]
"""

import argparse
import os
import random
import string
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from documents import lines
from pages import VIEW
from sheet import Sheet
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info
from transformers import CLIPVisionConfig, CLIPVisionModel, Trainer, TrainingArguments

from llava_uhd_v2_hf import LlavaUhdV2ImageProcessor


PATCH, ROWS, COLUMNS = 14, 2, 4  # side of a patch, and cells of a patch
CLASSES = " " + "".join(character for character in string.printable if character.isprintable() and character != " ")
BLANK_WEIGHT = 0.15
SIZES = (9, 10, 11, 12, 12, 13, 13, 14, 14, 15, 16, 17, 18, 20)


class CharacterMaps(IterableDataset):
    """Views of random text without end: `pixel_values` (3, VIEW, VIEW), and `labels`, a class for every cell.

    Args:
        name: of the views; others have other ones.
    """

    def __init__(self, name: str):
        self.name = name

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        source = random.Random(f"{self.name} {worker.id if worker else 0}")
        mean = np.array(LlavaUhdV2ImageProcessor.image_mean, dtype=np.float32)
        deviation = np.array(LlavaUhdV2ImageProcessor.image_std, dtype=np.float32)
        while True:
            sheet = Sheet(VIEW, VIEW, "train", source, scale=2 if source.random() < 0.3 else 1)
            lines(sheet, source.choice(SIZES))
            pixels = np.asarray(sheet.image.resize((VIEW, VIEW), resample=3), dtype=np.float32) / 255
            yield {
                "pixel_values": torch.from_numpy(((pixels - mean) / deviation).transpose(2, 0, 1)),
                "labels": torch.from_numpy(character_map(sheet)),
            }


def character_map(sheet: Sheet) -> np.ndarray:
    """The class of every cell: (VIEW / PATCH * ROWS, VIEW / PATCH * COLUMNS); 0 where there is no character."""
    side = VIEW // PATCH
    cells = np.zeros((side * ROWS, side * COLUMNS), dtype=np.int64)
    height, width = PATCH / ROWS, PATCH / COLUMNS
    for text, (left, top, right, bottom) in sheet.texts:
        first, last = (
            round((edge - height / 2) / height) for edge in (top + 0.3 * (bottom - top), bottom + 0.1 * (bottom - top))
        )
        rows = slice(max(first, 0), max(first, last) + 1)
        whole = sheet.length(text, int(bottom - top)) or 1
        stretch = (right - left) / whole
        edge = left
        for end, character in enumerate(text, start=1):
            start, edge = edge, left + sheet.length(text[:end], int(bottom - top)) * stretch
            columns = slice(*(max(round((x - width / 2) / width + 0.5), 0) for x in (start, edge)))
            if character in CLASSES:
                cells[rows, columns] = CLASSES.index(character)
    return cells


class CharacterTower(nn.Module):
    """A tower, and a layer that reads the hidden state before its last layer."""

    def __init__(self):
        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=6,
            image_size=VIEW,
            patch_size=PATCH,
            projection_dim=192,
        )
        self.tower = CLIPVisionModel(config)
        nn.init.normal_(self.tower.embeddings.position_embedding.weight, std=0.4)
        self.head = nn.Linear(192, ROWS * COLUMNS * len(CLASSES))
        self.register_buffer("weights", torch.tensor([BLANK_WEIGHT] + [1.0] * (len(CLASSES) - 1)))

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        state = self.tower(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
        logits = self.head(state).unflatten(2, (ROWS, COLUMNS, len(CLASSES)))
        side = VIEW // PATCH
        logits = logits.unflatten(1, (side, side)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        loss = F.cross_entropy(logits.flatten(0, 2).float(), labels.flatten(), self.weights)
        written = labels > 0
        right = (logits.argmax(-1) == labels)[written].float().mean()
        return {"loss": loss, "right": right.detach()}


def train_tower(folder: Path, steps: int, batch_size: int, workers: int) -> None:
    torch.manual_seed(0)
    network = CharacterTower()
    cuda = torch.cuda.is_available()
    args = TrainingArguments(
        output_dir=str(folder / "training"),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=1.5e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.02,
        bf16=cuda,
        dataloader_num_workers=workers,
        logging_steps=max(steps // 40, 1),
        save_strategy="no",
        report_to="none",
    )
    Trainer(network, args, train_dataset=CharacterMaps("train")).train()
    network.eval()
    batch = [sample for sample, _ in zip(CharacterMaps("validation"), range(256))]
    with torch.no_grad():
        tensors = {key: torch.stack([sample[key] for sample in batch]).to(args.device) for key in batch[0]}
        print(f"Cells with a character that are right: {network(**tensors)['right']:.3f}")
    network.tower.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    train_tower(arguments.folder, arguments.steps, arguments.batch_size, arguments.workers)


if __name__ == "__main__":
    main()
