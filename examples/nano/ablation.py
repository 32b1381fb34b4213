# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What slices, levels, up-sampler and layout contribute: models that differ in one thing, trained alike.

    python examples/nano/ablation.py MODEL FOLDER [SETTING ...]

All begin with the tower, the up-sampler and the language model of MODEL and with the same new window attention, and
see the same pages in the same order, which are in no other training (in the manner of the paper's ablations of the
pyramid and the layout). MODEL's own settings have an advantage: its language model has learnt with them. A seed
changes the new weights and the pages, a SETTING the recipe, as in `training.max_steps=100`. FOLDER/ablation.json has
for each run the loss on the last fifth of the pages and the exact match on the test set; what it has already is not
trained again. The table has means over the seeds, with standard deviations where there are several.
"""

import argparse
import itertools
import json
import shlex
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from evaluate import answer_all, is_written, read_samples, report_on, select
from test_set import write_test_set
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import llava_uhd_v2_hf  # noqa: F401  registers the model
from llava_uhd_v2_hf.utils.atomic import atomic_write


NANO = Path(__file__).parent
# name -> fields of the projector's config, fields of the image processor, order of the tokens
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "overview": ({}, {"max_slices": 1}, "spatial"),
    "level-0": ({"upsampler": "bilinear", "levels": [0]}, {}, "spatial"),
    "bilinear": ({"upsampler": "bilinear"}, {}, "spatial"),
    "vdim": ({}, {}, "spatial"),
    "vdim-sequential": ({}, {}, "sequential"),
}
COLUMNS = ["model", "loss", "all", "fields", "cells", "written", "large", "medium", "small"]


def make_variant(name: str, start: str, folder: Path, seed: int = 0) -> None:
    """A model with the weights of another one, but for its window attention, which is the same new one in all."""
    projector, images, layout = VARIANTS[name]
    config = AutoConfig.from_pretrained(start, dtype="float32", token_layout=layout)
    torch.manual_seed(seed)
    weights = AutoModelForImageTextToText.from_config(config).state_dict()
    trained = AutoModelForImageTextToText.from_pretrained(start, dtype=torch.float32).state_dict()
    weights |= {key: value for key, value in trained.items() if "window_attention" not in key}
    for field, value in projector.items():
        setattr(config.projector_config, field, value)
    model = AutoModelForImageTextToText.from_config(config)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    model.load_state_dict({key: weights[key] for key in shapes if weights[key].shape == shapes[key]}, strict=False)
    model.save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(start, token_layout=layout)
    for field, value in images.items():
        setattr(processor.image_processor, field, value)
    processor.save_pretrained(folder)


def train_variant(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Trains a model; returns its folder."""
    start, trained = arguments.folder / f"{name}-{seed}-start", arguments.folder / f"{name}-{seed}"
    make_variant(name, arguments.model, start, seed)
    split = f"ablation-{seed}" if seed else "ablation"
    settings = [f"model={start}", f"training.output_dir={trained}"]
    settings += [f"data.source={NANO}/pages.py", f"data.split={split}"]
    command = [*shlex.split(arguments.launch), "train", "sft", f"{NANO}/recipes/ablation.yaml"]
    subprocess.run([*command, *settings, *arguments.settings], check=True)
    return trained


def evaluate_variant(trained: Path, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Loss and exact match of a trained model."""
    state = max(trained.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name.split("-")[1]))
    losses = [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]
    model = AutoModelForImageTextToText.from_pretrained(trained, dtype=torch.float32).eval()
    answers = answer_all(model, AutoProcessor.from_pretrained(trained), samples)
    return {
        "loss": round(statistics.mean(losses[-max(len(losses) // 5, 1) :]), 3),
        **report_on(samples, answers, "kind"),
        "written": report_on(*select(samples, answers, is_written), "band"),
    }


def table_rows(runs: list[dict[str, Any]]) -> list[list[str]]:
    """A row of the table for each model: its name, the mean loss and the mean shares of right answers, in percent."""
    rows = []
    for name in dict.fromkeys(run["variant"] for run in runs):
        alike = [run for run in runs if run["variant"] == name]
        shares = zip(*map(shares_of, alike), strict=True)
        losses = [run["loss"] for run in alike]
        rows.append([name, mean_and_deviation(losses, 3), *(mean_and_deviation(values, 1) for values in shares)])
    return rows


def shares_of(run: dict[str, Any]) -> list[float]:
    groups = [run, *(run["by_kind"][kind] for kind in ("field", "cell")), run["written"]]
    groups += [run["written"]["by_band"][band] for band in ("large", "medium", "small")]
    return [100 * group["exact_match"] for group in groups]


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def read_report(file: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What has been measured already.

    Raises:
        ValueError: if it was of another model or other settings.
    """
    if not file.exists():
        return {**about, "runs": []}
    report = json.loads(file.read_text())
    if any(report[key] != value for key, value in about.items()):
        found = {key: report[key] for key in about}
        raise ValueError(f"{file} has results of {found}, not of {about}; take another folder.")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--launch", default="llava-uhd-v2", help="how the command is started, such as with torchrun")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="one of them; can be repeated")
    parser.add_argument("--seed", action="append", type=int, help="0 unless told; can be repeated")
    arguments = parser.parse_intermixed_args()
    arguments.folder = arguments.folder.resolve()
    report_file = arguments.folder / "ablation.json"
    report = read_report(report_file, {"model": arguments.model, "settings": arguments.settings})
    write_test_set(arguments.folder / "test")
    samples = read_samples(arguments.folder / "test")
    for seed, name in itertools.product(arguments.seed or [0], arguments.variant or VARIANTS):
        run = {"variant": name, "seed": seed}
        if not any(run.items() <= known.items() for known in report["runs"]):
            report["runs"].append(run | evaluate_variant(train_variant(name, seed, arguments), samples))
            with atomic_write(report_file) as file:
                file.write_text(f"{json.dumps(report, indent=2)}\n")
    for row in (COLUMNS, ["---"] * len(COLUMNS), *table_rows(report["runs"])):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
