# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""`llava-uhd-v2 data check`: what it finds, where, and how it ends."""

import json

import pytest
import typer
from PIL import Image
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.cli.support import errors_in_one_line
from llava_uhd_v2_hf.conversion.chat_templates import with_images_and_marks
from llava_uhd_v2_hf.data.check import check_data
from llava_uhd_v2_hf.data.collation import ConversationCollator
from llava_uhd_v2_hf.data.mixtures import ConversationData
from llava_uhd_v2_hf.data.samples import ConversationDataset
from tests.support.language_model_templates import MARKED, toy_tokenizer
from tests.support.recorded_formats import build_processor


def record(question, answer="A boat.", image=None):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, **({"image": image} if image else {})}


@pytest.fixture
def folder(tmp_path):
    """Pictures: a good one, a large one, one cut off in the middle."""
    Image.linear_gradient("L").resize((60, 40)).save(tmp_path / "good.png")
    Image.linear_gradient("L").resize((1400, 900)).save(tmp_path / "large.jpg")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    return tmp_path


def write_lines(path, *records):
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return str(path)


def run(*arguments):
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments)])


def test_good_data_ends_with_0(folder):
    source = write_lines(folder / "good.jsonl", record("<image>", image="good.png"), record("Hi"))
    result = run(source)
    assert result.exit_code == 0
    assert result.stdout == "2 samples, 1 images, 0 that would stop a training\n"


def test_everything_that_would_stop_a_training_is_found(folder):
    wrong = [
        record("<image>", image="good.png"),
        record("<image>", image="gone.png"),
        record("<image>", image="cut.png"),
        {"conversations": [{"from": "gpt", "value": "x"}]},
        '{"conversations": ',
        record("<image> and <image>", image=["gone.png", "good.png"]),
        record("<image>"),
    ]
    source = write_lines(folder / "wrong.jsonl", *wrong)
    result = run(source)
    assert result.exit_code == 1
    *errors, total = result.stdout.splitlines()
    assert total == "7 samples, 1 images, 6 that would stop a training"
    for line, (number, text) in zip(
        errors,
        [
            (2, f"`image`: there is no file {folder}/gone.png"),
            (3, "cut.png"),
            (4, "`conversations[0]`: expected role 'user', got 'assistant'"),
            (5, "the record is not valid JSON"),
            (6, f"`image`: there is no file {folder}/gone.png"),
            (7, "has 1 `<image>` marks and there are 0 images"),
        ],
        strict=True,
    ):
        assert line.startswith(f"Error: {source}:{number}, record {number}: ") and text in line


def test_it_finds_what_would_stop_the_training(folder, reference):
    """Samples without a finding make a batch; those with one raise the same where the training reaches them."""
    names = ["good.png", "cut.png", "large.jpg"]
    data = ConversationData(source=write_lines(folder / "a.jsonl", *(record("<image>", image=n) for n in names)))
    dataset, collate = ConversationDataset(data), ConversationCollator(build_processor(reference, "v1"))
    [finding] = check_data(data).findings
    assert finding.text.startswith(f"{folder}/a.jsonl:2, record 2: ")
    for index in (0, 2):
        assert len(collate([dataset[index]])["image_sizes"]) == 1
    with pytest.raises(ValueError, match=r"a.jsonl:2, record 2 can't be used .*cut.png"):
        collate([dataset[1]])


def test_the_command_line_shows_what_a_worker_raised(folder, capsys):
    source = write_lines(folder / "a.jsonl", record("<image>", image="cut.png"))
    (folder / "cut.png").write_bytes(b"no image")
    dataset = ConversationDataset(ConversationData(source=source))
    with pytest.raises(typer.Exit), errors_in_one_line():
        list(DataLoader(dataset, batch_size=None, num_workers=1))
    assert capsys.readouterr().err.startswith(
        f"Error: {source}:1, record 1: image 0 (cut.png) can't be used: PIL reads no image"
    )


def test_lengths(folder, reference):
    """Text beyond the limit is a note; an image or every answer beyond it stops a training."""
    records = [
        record("<image>\nWhat?", image="good.png"),
        record("Hi", "so " * 400),
        record("<image>", image="large.jpg"),
        record("why " * 400),
    ]
    data = ConversationData(source=write_lines(folder / "a.jsonl", *records), max_length=300, max_slices=7)
    processor = build_processor(reference, "v1")
    report = check_data(data, processor)
    texts = [finding.text for finding in report.findings]
    assert [finding.stops for finding in report.findings] == [False, True, True]
    assert f"{folder}/a.jsonl:2, record 2 has " in texts[0] and "cuts its text" in texts[0]
    assert f"{folder}/a.jsonl:3, record 3 has " in texts[1] and "would cut an image" in texts[1]
    assert f"{folder}/a.jsonl:4, record 4 has no token that is trained on" in texts[2]
    batch = ConversationCollator(processor)([ConversationDataset(data)[0]])
    assert report.tokens["image"]["max"] == 144 and report.tokens["image"]["p5"] == 0
    assert report.tokens["text"]["p5"] == batch["input_ids"].shape[1] - 144
    assert check_data(data, processor, num_workers=2) == report


def test_templates_from_elsewhere(folder, reference):
    """One that takes texts alone reads records with `<image>`; entries of images are an error with their place."""
    processor = build_processor(reference, "v1")
    processor.chat_template = MARKED
    entries = [{"type": "image"}, {"type": "text", "text": "What?"}]
    answer = {"role": "assistant", "content": "a boat"}
    chat = {"messages": [{"role": "user", "content": entries}, answer], "images": ["good.png"]}
    source = write_lines(folder / "a.jsonl", record("<image>\nWhat?", image="good.png"), chat)
    report = check_data(ConversationData(source=source), processor)
    [finding] = report.findings
    assert finding.stops and f"{folder}/a.jsonl:2, record 2 can't be used: can only concatenate" in finding.text
    processor.chat_template = with_images_and_marks(MARKED, toy_tokenizer("marked"))
    report = check_data(ConversationData(source=source), processor)
    assert not report.findings and report.tokens["image"] == dict.fromkeys(report.tokens["image"], 144)
    processor.chat_template = "{{ messages[0].content }}"
    with pytest.raises(ValueError, match="marks nothing to train on"):
        check_data(ConversationData(source=source), processor)


def test_the_command_counts_and_writes_a_report(folder, converted_checkpoint):
    source = write_lines(folder / "a.jsonl", record("<image>\nWhat?", image="good.png"), record("Hi"))
    result = run(source, "--model", converted_checkpoint, "--json", folder / "report.json")
    assert result.exit_code == 0, result.output
    table = [line.split() for line in result.stdout.splitlines()]
    assert table[1] == ["tokens", "p5", "p50", "p95", "max"]
    report = json.loads((folder / "report.json").read_text())
    assert table[2][1:] == [str(number) for number in report["tokens"]["text"].values()]
    assert report["samples"] == 2 and report["images"] == 1 and report["stops"] is False


def test_mixtures_and_folders(folder):
    (folder / "texts").mkdir()
    write_lines(folder / "texts/a.jsonl", record("<image>", image="good.png"))
    (folder / "mix.yaml").write_text("sources: [{path: texts/a.jsonl, images: ., samples: 5}]")
    assert run(folder / "mix.yaml").stdout.startswith("1 samples, 1 images, 0 ")
    assert run(folder / "texts/a.jsonl").exit_code == 1
    assert run(folder / "texts/a.jsonl", "--images", folder).exit_code == 0
    missing = run(folder / "none.json")
    assert missing.exit_code == 1 and "none.json can't be read" in missing.stderr
