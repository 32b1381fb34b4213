# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Exact match of a model's answers on the test set, by kind, size of letters and cuts, and of three controls.

    python examples/nano/evaluate.py MODEL FOLDER_OF_TEST_SET [--json FILE]

The controls: the page of another question, a blank page, and the overview without slices.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import llava_uhd_v2_hf  # noqa: F401  registers the model
from llava_uhd_v2_hf.training.evaluation import generate_answers


WRITTEN = ("field", "cell", "quantity")  # kinds of questions whose answers are read off the page
# of fields and cells; the random text of the first stages may have had them too, before it was divided
WORD_OR_PRICE = re.compile(r"[A-Z][a-z]+|\d+\.\d\d")
LABELS = {"cut True": "cut by an edge", "cut False": "not cut", "written_large_uncut": "written, band large, not cut"}


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


def report_on(samples: list[dict[str, Any]], answers: list[str], *keys: str) -> dict[str, Any]:
    """Exact match, altogether and by groups."""
    groups = {f"by_{key}": by_group(samples, answers, key) for key in keys}
    return {"questions": len(samples), "exact_match": share_right(samples, answers), **groups}


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


def select(
    samples: list[dict[str, Any]], answers: list[str], keep: Callable[[dict[str, Any]], bool]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Some of the samples, and their answers."""
    kept = [number for number, sample in enumerate(samples) if keep(sample)]
    return [samples[number] for number in kept], [answers[number] for number in kept]


def is_written(sample: dict[str, Any]) -> bool:
    return sample["kind"] in WRITTEN


def is_value(sample: dict[str, Any], word_or_price: bool) -> bool:
    """Whether the answer is that of a field or a cell, and a word or a price, or neither."""
    return sample["kind"] in ("field", "cell") and bool(WORD_OR_PRICE.fullmatch(sample["answer"])) == word_or_price


def table_rows(report: dict[str, Any], name: str = "all") -> Iterator[tuple[str, int, float]]:
    """(what, questions, exact match) of a report and of the groups and reports in it."""
    yield name, report["questions"], report["exact_match"]
    for key, value in report.items():
        if key.startswith("by_"):
            for group, entry in value.items():
                label = f"{key[3:]} {group}"
                yield f"{name}, {LABELS.get(label, label)}", entry["questions"], entry["exact_match"]
        elif isinstance(value, dict):
            yield from table_rows(value, LABELS.get(key, key.replace("_", " ")))


def with_images(samples: list[dict[str, Any]], images: list[Image.Image]) -> list[dict[str, Any]]:
    return [{**sample, "images": [image]} for sample, image in zip(samples, images, strict=True)]


def evaluate(model_folder: str, test_folder: Path) -> dict[str, Any]:
    processor = AutoProcessor.from_pretrained(model_folder)
    model = AutoModelForImageTextToText.from_pretrained(model_folder, dtype=torch.float32).eval()
    samples = read_samples(test_folder)
    images, shift = [sample["images"][0] for sample in samples], len(samples) // 5
    controls = {
        "other_page": with_images(samples, images[shift:] + images[:shift]),
        "blank_page": with_images(samples, [Image.new("RGB", image.size, "white") for image in images]),
    }
    answers = answer_all(model, processor, samples)
    report = report_on(samples, answers, "kind", "band")
    report["written"] = report_on(*select(samples, answers, is_written), "band", "cut")
    clear = select(
        samples, answers, lambda sample: is_written(sample) and sample["band"] == "large" and not sample["cut"]
    )
    report["written_large_uncut"] = report_on(*clear, "kind")
    for name, wanted in (("words_and_prices", True), ("other_values", False)):
        report[name] = report_on(*select(samples, answers, lambda sample, wanted=wanted: is_value(sample, wanted)))
    for name, control in controls.items():
        report[name] = report_on(control, answer_all(model, processor, control), "kind")
    report["overview_only"] = report_on(samples, answer_all(model, processor, samples, max_slices=1), "kind")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = evaluate(arguments.model, arguments.folder)
    if arguments.json:
        arguments.json.write_text(f"{json.dumps(report, indent=2)}\n")
    print("| questions | number | exact match |\n|---|---|---|")
    for name, questions, share in table_rows(report):
        print(f"| {name} | {questions} | {100 * share:.1f} % |")


if __name__ == "__main__":
    main()
