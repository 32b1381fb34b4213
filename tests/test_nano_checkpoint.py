# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The trained model that comes with the repository, and the demo that asks it."""

import json
import re
import sys

import pytest
import torch
from conftest import ROOT
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli import app


CHECKPOINT = ROOT / "examples/nano/checkpoint"
NANO = ROOT / "examples/nano"


@pytest.fixture(scope="module")
def demo():
    for folder in (NANO, NANO.parent):
        sys.path.insert(0, str(folder))
    try:
        import demo

        return demo
    finally:
        for folder in (NANO, NANO.parent):
            sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def results():
    return json.loads((CHECKPOINT / "results.json").read_text())


def read_table(path, heading):
    """The rows of the first table below a heading."""
    [table] = re.findall(r"(?:^\|.+\|\n)+", path.read_text().split(f"\n{heading}\n", 1)[1], re.MULTILINE)[:1]
    rows = re.findall(r"^\|(.+)\|$", table, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


def test_the_folder_is_complete_small_and_ready_for_the_hub():
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    result = CliRunner().invoke(app, ["push", str(CHECKPOINT), "org/nano", "--dry-run"])
    assert result.exit_code == 0, result.output


def test_it_is_the_same_classes_with_nothing_missing():
    model, report = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, output_loading_info=True)
    assert type(model).__module__ == "llava_uhd_v2_hf.modeling_llava_uhd_v2"
    assert not any(report.values())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.projector_config.upsampler == "vdim" and model.config.projector_config.levels == [0, 1, 2]


def test_the_demo_answers_as_the_readme_shows(demo, tmp_path, capsys):
    demo.main(str(tmp_path / "demo.png"))
    printed = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    shown = read_table(ROOT / "README.md", "## A small model to try")
    assert [row[2:5] for row in printed if len(row) > 5] == shown
    with Image.open(tmp_path / "demo.png") as picture, Image.open(ROOT / "docs/images/demo.png") as committed:
        assert picture.size == committed.size


@pytest.mark.parametrize(
    ("name", "heading"), [("results", "## Results"), ("results_familiar", "## Where it reads well")]
)
def test_the_card_has_the_figures_that_were_measured(name, heading, monkeypatch):
    monkeypatch.syspath_prepend(str(NANO))
    from evaluate import table_rows

    report = json.loads((CHECKPOINT / f"{name}.json").read_text())
    measured = {what: [str(questions), f"{100 * share:.1f} %"] for what, questions, share in table_rows(report)}
    shown = {what: cells for what, *cells in read_table(CHECKPOINT / "README.md", heading)}
    assert shown and shown.items() <= measured.items()
    assert name != "results" or shown == measured


@pytest.mark.slow
def test_the_figures_come_out_again(results, tmp_path):
    sys.path.insert(0, str(NANO))
    try:
        from evaluate import answer_all, read_samples, share_right
        from test_set import write_test_set
    finally:
        sys.path.remove(str(NANO))
    write_test_set(tmp_path)
    samples = read_samples(tmp_path)
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    assert share_right(samples, answer_all(model, processor, samples)) == pytest.approx(
        results["exact_match"], abs=0.01
    )
