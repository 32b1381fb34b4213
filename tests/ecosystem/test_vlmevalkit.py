# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""VLMEvalKit's base class, inference and scores with our model, on data sets of a few pictures."""

import base64
import csv
import io
import json
from pathlib import Path

import pytest

from tests.ecosystem.apart import Client
from tests.ecosystem.lmms_eval_tasks import FORM, ROWS
from tests.ecosystem.one_by_one import OneByOne


VLMEVALKIT = Client("vlmeval")
SCRIPT = Path(__file__).with_name("vlmevalkit_run.py")


def write_data_set(path, answers, **columns):
    """A table in VLMEvalKit's form."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["index", "image", "question", "answer", *columns])
        for number, (row, answer) in enumerate(zip(ROWS, answers)):
            row["image"].save(buffer := io.BytesIO(), "PNG")
            image = base64.b64encode(buffer.getvalue()).decode()
            writer.writerow([number, image, row["question"], answer, *columns.values()])


@pytest.fixture(scope="module")
def answer(tiny_checkpoint):
    """Answers a question about an image by transformers alone."""
    return OneByOne(tiny_checkpoint)


@pytest.fixture
def run(tiny_checkpoint, tmp_path, monkeypatch):
    """Answers a data set with VLMEvalKit -> its process."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("LMUData", str(tmp_path / "data"))
    monkeypatch.setenv("PRED_FORMAT", "tsv")

    def run_script(name, answers, columns=None, **settings):
        write_data_set(tmp_path / "data" / f"{name}.tsv", answers, **(columns or {}))
        model = {"model_path": str(tiny_checkpoint), "record": str(tmp_path / "record.json"), "device": "cpu"}
        arguments = json.dumps({**model, "generation": {"max_new_tokens": "6", "temperature": "0"}, **settings})
        return VLMEVALKIT.run(SCRIPT, tmp_path, name, arguments, cache=tmp_path)

    return run_script


@pytest.fixture
def evaluate(run, tmp_path):
    """Answers a data set with VLMEvalKit -> the answers in its file, its score, and our record."""

    def evaluate_data_set(name, *arguments, **settings):
        done = run(name, *arguments, **settings)
        assert done.returncode == 0, done.stderr
        printed = json.loads(done.stdout.splitlines()[-1])
        return printed["answers"], printed["score"], json.loads((tmp_path / "record.json").read_text())

    return evaluate_data_set


@pytest.mark.client("ms-vlmeval", "VLMEvalKit's base class, inference and score of open questions: as by hand")
def test_open_questions(evaluate, answer):
    expected = [answer(row["image"], row["question"] + FORM) for row in ROWS]
    answers, score, record = evaluate("GQA_openended", [*expected[:3], "something", "else"])
    assert answers == expected
    assert score == pytest.approx(60)
    assert record["versions"]["ms-vlmeval"] == "0.0.20"
    noted = record["tasks"]["GQA_openended"]
    assert noted["questions"] == len(ROWS)
    assert noted["first_prompt"].endswith(f"USER: <image>\n{ROWS[0]['question']}{FORM} ASSISTANT:")


@pytest.mark.client("ms-vlmeval", "questions with options: the prompts of the released training")
def test_options(evaluate, answer):
    columns = {"hint": "It may be a fractal.", "A": "red", "B": "blue", "C": ""}
    prompts = [
        f"It may be a fractal.\n{row['question']}\nA. red\nB. blue\n"
        "Answer directly with the option's letter from the given choices."
        for row in ROWS
    ]
    answers, _, record = evaluate("letters", ["A"] * len(ROWS), columns)
    assert answers == [answer(row["image"], prompt) for row, prompt in zip(ROWS, prompts)]
    assert prompts[0] in record["tasks"]["letters"]["first_prompt"]


@pytest.mark.client("ms-vlmeval", "`ocr_tokens=True`: OCR words from a column, refused where there is none")
def test_ocr_words(evaluate, run, answer):
    expected = [answer(row["image"], f"{row['question']}\nReference OCR token: Stop, 7{FORM}") for row in ROWS]
    columns = {"ocr_tokens": "['Stop', '7']"}
    answers, _, record = evaluate("GQA_openended", [""] * len(ROWS), columns, ocr_tokens=True)
    assert answers == expected
    assert record["settings"]["ocr_tokens"] is True
    done = run("other_openended", ["x"] * len(ROWS), ocr_tokens=True)
    assert "`ocr_tokens` is on, but the data set other_openended has no such column" in done.stderr
