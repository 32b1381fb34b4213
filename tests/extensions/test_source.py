# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A format of data from outside the package: the extension of docs/data.md, which reads .csv files."""

import csv
import gc
import importlib
import json
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from llava_uhd_v2_hf.data.check import check_data
from llava_uhd_v2_hf.data.mixtures import ConversationData
from llava_uhd_v2_hf.data.samples import ConversationDataset
from llava_uhd_v2_hf.data.sources import SOURCES, find_source
from llava_uhd_v2_hf.data.streams import ConversationStream
from tests.support.finetune_runs import logged, run_command, train
from tests.support.hub_process import CLI
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The documented extension."""
    [text] = re.findall(r"^```python\n(# csv_format.py\n.*?)^```$", (ROOT / "docs/data.md").read_text(), re.M | re.S)
    path = tmp_path_factory.mktemp("program") / "csv_format.py"
    path.write_text(text)
    return path


@pytest.fixture
def registered(program, monkeypatch):
    """The format, registered by an import of the extension."""
    monkeypatch.syspath_prepend(program.parent)
    module = importlib.import_module("csv_format")
    yield module.read_csv
    del SOURCES[".csv"], sys.modules["csv_format"]


@pytest.fixture
def register():
    """Registers formats for one test."""
    suffixes = []

    def register_source(suffix, read):
        SOURCES[suffix] = read
        suffixes.append(suffix)

    yield register_source
    for suffix in suffixes:
        del SOURCES[suffix]


@pytest.fixture(scope="module")
def table(samples):
    """The samples as a table, beside their images."""
    path = samples.with_name("samples.csv")
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "question", "answer"])
        for record in json.loads(samples.read_text()):
            question, answer = (turn["value"] for turn in record["conversations"])
            writer.writerow([record["image"], question.removeprefix("<image>\n"), answer])
    return path


def same_weights(folder, other):
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_command_with_the_extension_reads_it(program, table):
    command = run_command(*CLI, "--extension", program, "data", "check", table, stdout=-1, text=True)
    assert command.communicate()[0] == "32 samples, 32 images, 0 that would stop a training\n"
    assert command.returncode == 0


def test_findings_name_the_place(registered, table):
    broken = table.with_name("broken.csv")
    broken.write_text("image,question,answer\n000.png,What?,A boat\ngone.png,What?,A boat\n000.png,What?,\n")
    findings = [finding.text for finding in check_data(ConversationData(source=str(broken))).findings]
    assert findings[0].startswith(f"{broken}:3: `image`: there is no file") and len(findings) == 2
    assert findings[1].startswith(f"{broken}:4: `conversations[1]` says nothing")
    with pytest.raises(ValueError, match=r"2 samples can't be used: .*broken.csv:3"):
        ConversationDataset(ConversationData(source=str(broken)))
    with pytest.raises(ValueError, match="none.csv can't be read: .*; set `data.source`"):
        ConversationDataset(ConversationData(source=str(table.with_name("none.csv"))))


def test_it_trains_as_the_same_records_of_json(registered, table, tiny_checkpoint, samples, tmp_path):
    (tmp_path / "mix.yaml").write_text(f"{{root: {table.parent}, sources: [{{path: samples.csv}}]}}")
    more = ["training.max_steps=2"]
    for name, source in (("csv", table), ("json", samples), ("mix", tmp_path / "mix.yaml")):
        train("sft", tiny_checkpoint, source, tmp_path / name, *more)
    assert same_weights(tmp_path / "csv", tmp_path / "json") and same_weights(tmp_path / "mix", tmp_path / "json")
    assert "| data | samples.csv, 32 samples |" in (tmp_path / "csv/README.md").read_text()


@pytest.mark.parametrize("streaming", ["true", "false"])
def test_a_training_resumes(streaming, registered, table, tiny_checkpoint, tmp_path):
    more = [f"data.streaming={streaming}", "training.save_steps=2", "training.max_steps=4"]
    train("pretrain", tiny_checkpoint, table, tmp_path / "whole", *more)
    shutil.copytree(tmp_path / "whole/checkpoint-2", tmp_path / "resumed/checkpoint-2")
    train("pretrain", tiny_checkpoint, table, tmp_path / "resumed", *more)
    assert logged(tmp_path / "resumed", 4) == logged(tmp_path / "whole", 4)
    assert same_weights(tmp_path / "resumed", tmp_path / "whole")


def test_a_stream_is_shared_by_processes_and_read_by_a_worker(registered, table):
    data = ConversationData(source=str(table), streaming=True, shuffle_buffer=1)
    names = []
    for rank in range(2):
        loader = DataLoader(ConversationStream(data, rank=rank, world_size=2), batch_size=None, num_workers=1)
        names += [sample["name"] for sample, _ in zip(loader, range(16))]
    assert sorted(names) == sorted(f"{table}:{line}" for line in range(2, 34))
    with pytest.raises(ValueError, match="1 shards for a process with 2 workers"):
        ConversationStream(data, num_workers=2)


def test_records_are_kept_on_disk_as_long_as_they_are_needed(registered, table):
    records = find_source(str(table)).open(str(table), "train")
    copied = pickle.loads(pickle.dumps(records))  # as workers that are spawned have it
    assert len(copied) == 32 and [copied[n] for n in range(32)] == [records[n] for n in range(32)]
    spooled = Path(records.path)
    del copied
    assert spooled.exists()
    loaded = list(DataLoader(records, batch_size=None, num_workers=2))  # forked
    assert [place for place, _ in loaded] == [f"{table}:{line}" for line in range(2, 34)]
    del records, loaded
    gc.collect()
    assert not spooled.exists()


@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_can_be_in_the_record(streaming, register, samples):
    image = samples.with_name("000.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A boat"}]
    images = [str(image), image.read_bytes(), {"bytes": image.read_bytes()}, Image.open(image)]
    register(".md", lambda path, split: ((path, {"image": image, "conversations": turns}) for image in images))
    data = ConversationData(source="a.md", streaming=streaming, shuffle_buffer=1)
    found = ConversationStream(data) if streaming else ConversationDataset(data)
    assert [found_one["images"][0].size for found_one, _ in zip(found, images)] == [(112, 112)] * 4


# What is refused


def read_nothing(path, split):
    return None


def read_without_places(path, split):
    yield {"conversations": []}


@pytest.mark.parametrize(
    ("suffix", "read", "message"),
    [
        ("csv", read_nothing, "Expected a suffix that begins with a dot, such as '.csv', got 'csv'"),
        (".jsonl", read_nothing, "'.jsonl' is registered already; known: .json, .jsonl, .parquet, .py, .yaml, .yml"),
        (".yaml", read_nothing, "'.yaml' is registered already"),
        (".md", "read_md", r"Expected a function read\(path, split\) .* for '.md', got 'read_md'"),
        (".md", lambda path: [], r"Expected a function read\(path, split\).*too many positional arguments"),
    ],
)
def test_a_registration_that_does_not_fit_is_refused(suffix, read, message):
    with pytest.raises(ValueError, match=message):
        SOURCES[suffix] = read
    assert list(SOURCES) == [".json", ".jsonl", ".parquet", ".py"]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (read_nothing, r"Expected \(place, record\) pairs from read_nothing for .*a.md, got None"),
        (read_without_places, r"pairs with text as place from read_without_places for .*a.md, got {'conversations'"),
        (lambda path, split: [], "a.md has no records"),
    ],
)
def test_a_function_that_yields_something_else_is_named(read, message, register, tmp_path):
    register(".md", read)
    with pytest.raises(ValueError, match=message):
        ConversationDataset(ConversationData(source=str(tmp_path / "a.md")))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_suffix_that_is_not_registered_is_answered_with_those_that_are(streaming, tmp_path):
    (tmp_path / "a.csv").write_text("image,question,answer\n")
    data = ConversationData(source=str(tmp_path / "a.csv"), streaming=streaming)
    with pytest.raises(ValueError, match=r"ends in .json, .jsonl, .parquet, .py, a folder .*, got the file .*a.csv"):
        ConversationStream(data) if streaming else ConversationDataset(data)
