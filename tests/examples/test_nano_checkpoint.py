# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The trained model that comes with the repository, and the demo that asks it."""

import json
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from tests.support.paths import ROOT


CHECKPOINT = ROOT / "examples/nano/checkpoint"
NANO = ROOT / "examples/nano"


@pytest.fixture(scope="module")
def demo():
    import demo

    return demo


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
    assert "  curves.png\n" in result.output


def test_it_is_the_same_classes_with_nothing_missing():
    model, report = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, output_loading_info=True)
    assert type(model).__module__ == "llava_uhd_v2_hf.model.modeling_llava_uhd_v2"
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


def test_the_card_has_the_table_of_the_ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(NANO))
    from ablation import table_rows

    runs = json.loads((CHECKPOINT / "ablation.json").read_text())["runs"]
    assert read_table(CHECKPOINT / "README.md", "## What contributes") == table_rows(runs)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "look"), [("results", "test"), ("results_familiar", "train")])
def test_the_figures_come_out_again(name, look, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(NANO))
    from evaluate import answer_all, is_written, read_samples, report_on, select
    from test_set import write_test_set

    write_test_set(tmp_path, fonts=look, styles=look)
    samples = read_samples(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    answers = answer_all(model, AutoProcessor.from_pretrained(CHECKPOINT), samples)
    committed = json.loads((CHECKPOINT / f"{name}.json").read_text())
    found = report_on(samples, answers, "kind", "band")
    found["written"] = report_on(*select(samples, answers, is_written), "band", "cut")
    assert groups_of(found).keys() <= groups_of(committed).keys()
    for group, one in groups_of(found).items():
        other = groups_of(committed)[group]
        assert one["questions"] == other["questions"]
        assert one["exact_match"] == pytest.approx(other["exact_match"], abs=3.5 / one["questions"])  # three answers


def groups_of(report, *names):
    """Every dictionary in a report that has an exact match, by the keys that lead to it."""
    groups = {names: report} if "exact_match" in report else {}
    for key, value in report.items():
        if isinstance(value, dict):
            groups |= groups_of(value, *names, key)
    return groups


@pytest.mark.slow
def test_evaluate_reports_answers_and_controls(results, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(NANO))
    from evaluate import table_rows
    from test_set import write_test_set

    records = write_test_set(tmp_path).read_text().splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join(records[:40]))
    command = [sys.executable, NANO / "evaluate.py", CHECKPOINT, tmp_path, "--json", tmp_path / "report.json"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report.keys() == results.keys()
    assert report["exact_match"] > 0.4
    assert all(report[control]["by_kind"]["field"]["exact_match"] == 0 for control in ("other_page", "blank_page"))
    for what, questions, share in table_rows(report):
        assert f"| {what} | {questions} | {100 * share:.1f} % |" in result.stdout.splitlines()
