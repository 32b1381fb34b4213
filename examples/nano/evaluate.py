# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Exact match of a model's answers on the test set, by kind and size of letters, and of three controls.

    python examples/nano/evaluate.py MODEL FOLDER_OF_TEST_SET [--json FILE]

The controls: the page of another question, a blank page, and the overview without slices.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import llava_uhd_v2_hf  # noqa: F401  registers the model
from llava_uhd_v2_hf.training.answers import generate_answers


def read_samples(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    return [
        {
            "messages": [
                {"role": role, "content": turn["value"]}
                for role, turn in zip(("user", "assistant"), record["conversations"], strict=True)
            ],
            "images": [Image.open(folder / record["image"]).convert("RGB")],
            "answer": record["conversations"][1]["value"],
            **{key: record[key] for key in ("kind", "band", "cut")},
        }
        for record in records
    ]


def answer_all(model: Any, processor: Any, samples: list[dict[str, Any]], max_slices: int | None = None) -> list[str]:
    answers = []
    for start in range(0, len(samples), 20):
        batch = samples[start : start + 20]
        answers += generate_answers(model, processor, batch, max_new_tokens=32, max_slices=max_slices)
    return answers


def share_right(samples: list[dict[str, Any]], answers: list[str]) -> float:
    right = [answer.strip() == sample["answer"] for sample, answer in zip(samples, answers, strict=True)]
    return round(sum(right) / len(right), 3)


def by_group(samples: list[dict[str, Any]], answers: list[str], key: str) -> dict[str, dict[str, float]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for number, sample in enumerate(samples):
        groups[str(sample[key])].append(number)
    return {
        name: {
            "questions": len(numbers),
            "exact_match": share_right([samples[n] for n in numbers], [answers[n] for n in numbers]),
        }
        for name, numbers in sorted(groups.items())
    }


def with_images(samples: list[dict[str, Any]], images: list[Image.Image]) -> list[dict[str, Any]]:
    return [{**sample, "images": [image]} for sample, image in zip(samples, images, strict=True)]


def evaluate(model_folder: str, test_folder: Path) -> dict[str, Any]:
    processor = AutoProcessor.from_pretrained(model_folder)
    model = AutoModelForImageTextToText.from_pretrained(model_folder, dtype=torch.float32).eval()
    samples = read_samples(test_folder)
    answers = answer_all(model, processor, samples)
    images = [sample["images"][0] for sample in samples]
    others = with_images(samples, images[100:] + images[:100])
    blank = with_images(samples, [Image.new("RGB", image.size, "white") for image in images])
    return {
        "questions": len(samples),
        "exact_match": share_right(samples, answers),
        **{f"by_{key}": by_group(samples, answers, key) for key in ("kind", "band", "cut")},
        "other_page": share_right(samples, answer_all(model, processor, others)),
        "blank_page": share_right(samples, answer_all(model, processor, blank)),
        "overview_only": share_right(samples, answer_all(model, processor, samples, max_slices=1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = evaluate(arguments.model, arguments.folder)
    text = json.dumps(report, indent=2)
    if arguments.json:
        arguments.json.write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
