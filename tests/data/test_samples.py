# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The samples of fine-tuning: files, data sets, mixtures, streams, and what is wrong with them."""

import collections
import importlib.resources
import io
import json
import os
import pickle
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from llava_uhd_v2_hf.data.check import check_data
from llava_uhd_v2_hf.data.mixtures import ConversationData, read_sources
from llava_uhd_v2_hf.data.pre_resize import SIX_SLICES_PROBABILITY, area_of_six_slices, pre_resized
from llava_uhd_v2_hf.data.records import RecordFile
from llava_uhd_v2_hf.data.sample_images import locate_image
from llava_uhd_v2_hf.data.samples import ConversationDataset
from llava_uhd_v2_hf.data.sources import SOURCES, FunctionSource
from llava_uhd_v2_hf.data.streams import ConversationStream
from llava_uhd_v2_hf.utils.seeds import generator
from tests.support.paths import ROOT


def record(number, image=None):
    question = "<image>\nWhat?" if image else "Hi"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"answer {number}"}]
    return {"id": number, "conversations": turns, **({"image": image} if image else {})}


def write_json(path, records):
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False), encoding="utf-8")
    return str(path)


def png(size=(60, 40)):
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).save(file, "PNG")
    return file.getvalue()


def answers(samples):
    return [sample["messages"][-1]["content"] for sample in samples]


@pytest.fixture
def folder(tmp_path):
    """Six records, the even ones with an image, beside a folder of images."""
    (tmp_path / "images").mkdir()
    for number in range(0, 6, 2):
        (tmp_path / f"images/{number}.png").write_bytes(png())
    write_json(tmp_path / "six.json", [record(n, None if n % 2 else f"images/{n}.png") for n in range(6)])
    return tmp_path


def write_parquet(folder, count, shards):
    """Chat records with embedded images in some files."""
    folder.mkdir(exist_ok=True)
    features = datasets.Features(
        {
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
            "images": datasets.List(datasets.Image()),
        }
    )
    for shard in range(shards):
        rows = [
            {
                "messages": [
                    {"role": "user", "content": "<image>\nWhat?" if n % 2 == 0 else "Hi"},
                    {"role": "assistant", "content": f"answer {n}"},
                ],
                "images": [{"bytes": png(), "path": None}] if n % 2 == 0 else [],
            }
            for n in range(shard, count, shards)
        ]
        if rows:
            datasets.Dataset.from_list(rows, features).to_parquet(folder / f"train-{shard:05d}.parquet")
    return str(folder)


@pytest.fixture(autouse=True)
def no_pause_between_epochs(monkeypatch):
    """`datasets` waits five seconds when it has read a stream to its end."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


# Files


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=4),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
)
def test_records_are_read_at_their_places(tmp_path_factory, texts, indent, ascii_only):
    """Every record of a list is found by its bytes, and its line is the one where it begins."""
    path = tmp_path_factory.mktemp("records") / "records.json"
    records = [{"n": number, "text": text} for number, text in enumerate(texts)]
    written = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(written.encode())
    file = RecordFile(str(path))
    assert len(file) == len(records)
    lines = written.split("\n")
    for number, wanted in enumerate(records):
        place, found = file[number]
        assert found == wanted
        line, ordinal = map(int, re.fullmatch(r".*:(\d+), record (\d+)", place).groups())
        assert ordinal == number + 1
        assert "{" in lines[line - 1] and (indent is None or f'"n": {number}' in lines[line])


def test_lines_of_jsonl(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(record(0))}\n\n{json.dumps(record(1))}\n", encoding="utf-8")
    data = ConversationDataset(ConversationData(source=str(path)))
    assert [data[0]["name"], data[1]["name"]] == [f"{path}:1, record 1 (id 0)", f"{path}:3, record 2 (id 1)"]
    assert answers(data[n] for n in range(2)) == ["answer 0", "answer 1"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_byte_order_mark_changes_nothing(tmp_path, name):
    """Windows writes one."""
    lines = [json.dumps(record(number) | {"id": "Größe"}, ensure_ascii=False) for number in range(3)]
    path = tmp_path / name
    path.write_text(f"[{', '.join(lines)}]" if name == "a.json" else "\n".join(lines), encoding="utf-8-sig")
    data = ConversationDataset(ConversationData(source=str(path)))
    assert answers(data[n] for n in range(3)) == ["answer 0", "answer 1", "answer 2"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[\n{"id": 1},\n{"id": 2', "a.json:3, record 2: the file is not valid JSON"),
        ("a.json", '[{"id": 1}\n{"id": 2}]', "a.json:2, record 2: the file is not valid JSON: there must be a comma"),
        ("a.json", '{"id": 1}', "a.json:1, record 1: the file is not valid JSON: the file must be a list of records"),
        ("a.json", "[]", "a.json has no records"),
        ("a.jsonl", "\n", "a.jsonl has no records"),
        ("a.jsonl", '{"id": 1}\n{"id"', "a.jsonl:2, record 2: the record is not valid JSON"),
        ("a.json", b"\xff\xfe[", "a.json can't be read"),
        ("none/a.json", None, "a.json can't be read: .*set `data.source`"),
        (
            "none",
            None,
            "Expected a file that ends in .json, .jsonl, .parquet, .py, a folder .*, got .*none .*set `data.source`",
        ),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        ConversationDataset(ConversationData(source=str(path)))


def test_samples_have_opened_images_and_names(folder):
    data = ConversationDataset(ConversationData(source=str(folder / "six.json")))
    assert len(data) == 6 and answers(data[n] for n in range(6)) == [f"answer {n}" for n in range(6)]
    assert data[2]["images"][0].size == (60, 40) and data[3]["images"] == []
    assert re.fullmatch(r".*six\.json:\d+, record 3 \(id 2\)", data[2]["name"])
    again = pickle.loads(pickle.dumps(data))
    assert again[4]["messages"] == data[4]["messages"]


def test_images_can_be_in_another_folder(folder):
    source = write_json(folder / "a.json", [record(0, "0.png")])
    data = ConversationDataset(ConversationData(source=source, images=str(folder / "images")))
    assert data[0]["images"][0].size == (60, 40)


# What is wrong


def test_every_wrong_record_is_named_before_the_first_step(folder):
    wrong = [
        record(0),
        {"conversations": [{"from": "gpt", "value": "x"}]},
        record(2, "gone.png"),
        record(3, "a/b.png"),
    ]
    source = write_json(folder / "wrong.json", wrong)
    lines = [n for n, line in enumerate((folder / "wrong.json").read_text().splitlines(), 1) if line == " {"]
    with pytest.raises(ValueError, match="3 samples can't be used") as error:
        ConversationDataset(ConversationData(source=source))
    assert f"wrong.json:{lines[1]}, record 2: `conversations[0]`: expected role 'user', got" in str(error.value)
    assert f"wrong.json:{lines[2]}, record 3 (id 2): `image`: there is no file {folder}/gone.png" in str(error.value)
    assert f"wrong.json:{lines[3]}, record 4 (id 3): `image`: there is no file {folder}/a/b.png" in str(error.value)


def read_rows(path, split):
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        yield f"{path}, row {number}", json.loads(line)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet", "a.rows", "streamed.parquet"])
def test_a_record_is_named_by_its_number_and_id_in_every_format(tmp_path, name, monkeypatch):
    """Also where all records of a file are in one line."""
    monkeypatch.setitem(SOURCES.data, ".rows", FunctionSource(read_rows))
    records = [record(number) | {"id": f"page-{number}"} for number in range(3)]
    records[1]["conversations"].pop()
    path, lines = tmp_path / name, [json.dumps(entry) for entry in records]
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(records).to_parquet(path)
    else:
        path.write_text(f"[{', '.join(lines)}]" if name == "a.json" else "\n".join(lines))
    data = ConversationData(source=str(path), streaming=name.startswith("streamed"), shuffle_buffer=1)
    places = {".json": ":1, record 2", ".jsonl": ":2, record 2", ".rows": ", row 2"}
    place = places.get(path.suffix, ", process 0, .*sample 1" if data.streaming else ", row 1")
    with pytest.raises(ValueError, match=rf"{name}{place} \(id page-1\): `conversations` ends with the user"):
        list(ConversationStream(data)) if data.streaming else ConversationDataset(data)
    if not data.streaming:
        [finding] = check_data(data).findings
        assert re.search(rf"{name}{place} \(id page-1\): ", finding.text)


def test_only_the_first_few_problems_are_listed(folder):
    source = write_json(folder / "wrong.json", [record(n, f"gone{n}.png") for n in range(9)])
    with pytest.raises(ValueError, match="9 samples.*gone4.png; and 4 more") as error:
        ConversationDataset(ConversationData(source=source))
    assert "gone5.png" not in str(error.value)


def test_samples_with_missing_images_can_be_skipped(folder):
    os.remove(folder / "images/2.png")
    data = ConversationDataset(ConversationData(source=str(folder / "six.json"), missing_images="skip"))
    assert answers(data[n] for n in range(len(data))) == [f"answer {n}" for n in (0, 1, 3, 4, 5)]
    [skipped] = data.skipped
    assert skipped.endswith(f"there is no file {folder}/images/2.png")
    source = write_json(folder / "none.json", [record(0, "gone.png")])
    with pytest.raises(ValueError, match="has no sample whose images are all there"):
        ConversationDataset(ConversationData(source=source, missing_images="skip"))


def test_an_image_that_cannot_be_opened_is_named(folder):
    (folder / "images/2.png").write_bytes(b"no image")
    data = ConversationDataset(ConversationData(source=str(folder / "six.json")))
    with pytest.raises(
        ValueError, match=r"six.json:\d+, record 3 \(id 2\): image 0 \(images/2.png\) can't be used: PIL"
    ):
        data[2]


# Data sets of `datasets`


@pytest.mark.parametrize("as_file", [True, False])
def test_parquet(tmp_path, as_file):
    source = write_parquet(tmp_path / "set", 5, shards=1)
    source = f"{source}/train-00000.parquet" if as_file else source
    data = ConversationDataset(ConversationData(source=source))
    assert answers(data[n] for n in range(5)) == [f"answer {n}" for n in range(5)]
    assert data[2]["images"][0].size == (60, 40) and data[1]["images"] == []
    assert data[2]["name"] == f"{source}, row 2"


def test_a_row_that_is_wrong_is_named(tmp_path):
    rows = [{**record(0, {"bytes": png(), "path": None}), "conversations": [{"from": "human", "value": "<image>"}]}]
    dataset = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    dataset.to_parquet(tmp_path / "a.parquet")
    data = ConversationDataset(ConversationData(source=str(tmp_path / "a.parquet")))
    with pytest.raises(ValueError, match=r"a.parquet, row 0 \(id 0\): `conversations` ends with the user"):
        data[0]


def test_missing_files_of_rows_are_found_before_the_first_step(folder):
    rows = [record(n, f"images/{n}.png") for n in (0, 1, 2)]
    datasets.Dataset.from_list(rows).to_parquet(folder / "a.parquet")
    source = str(folder / "a.parquet")
    with pytest.raises(ValueError, match=r"1 samples can't be used: .*a.parquet, row 1 \(id 1\): `image`: there"):
        ConversationDataset(ConversationData(source=source))
    data = ConversationDataset(ConversationData(source=source, missing_images="skip"))
    assert answers(data[n] for n in range(len(data))) == ["answer 0", "answer 2"]


# Mixtures


def write_mixture(path, *sources, root=None):
    path.write_text(json.dumps({"sources": list(sources), **({"root": str(root)} if root else {})}))
    return str(path)


def write_sources(folder, **counts):
    for name, count in counts.items():
        write_json(folder / f"{name}.json", [record(f"{name}{n}") for n in range(count)])


def drawn(source, seed=0):
    data = ConversationDataset(ConversationData(source=source), seed)
    return collections.Counter(answers(data[n] for n in range(len(data))))


def test_a_mixture_takes_what_it_says(tmp_path):
    write_sources(tmp_path, all=4, some=10, few=3, half=8)
    mixture = write_mixture(
        tmp_path / "mix.yaml",
        {"path": "all.json"},
        {"path": "some.json", "samples": 6},
        {"path": "few.json", "samples": 7},
        {"path": "half.json", "weight": 0.5},
    )
    counts = drawn(mixture)
    of = {name: [c for a, c in counts.items() if name in a] for name in ("all", "some", "few", "half")}
    assert of["all"] == [1] * 4 and of["some"] == [1] * 6 and of["half"] == [1] * 4
    assert sorted(of["few"]) == [2, 2, 3]  # each as often as the others or once more
    assert drawn(mixture) == counts and drawn(mixture, seed=1) != counts


def test_a_mixture_s_folders_and_prompts(folder):
    (folder / "texts").mkdir()
    write_json(folder / "texts/a.json", [record(0, "2.png")])
    source = {"path": "texts/a.json", "images": "images", "prompt": "Use one word."}
    for path, root in ((folder / "mix.yaml", None), (folder / "texts/mix.yaml", folder)):
        data = ConversationDataset(ConversationData(source=write_mixture(path, source, root=root)))
        assert data[0]["messages"][0]["content"] == "<image>\nWhat?\nUse one word."
        assert data[0]["images"][0].size == (60, 40)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: [{pth: a.json}]", r"mix.yaml: .*unknown key `sources\[0\].pth`; did you mean `path`"),
        ("sources: [{images: a}]", r"mix.yaml: .*sources\[0\] can't be used: .*'path'"),
        ("sources: [{path: a.json, samples: 2, weight: 1}]", "has both `samples` and `weight`"),
        ("sources: [{path: a.json, samples: 0}]", "needs `samples` of at least 1 or a positive `weight`, got 0"),
        ("sources: [{path: a.json, weight: -1}]", "needs `samples` of at least 1 or a positive `weight`, got -1"),
        ("sources: [{path: a.json, samples: many}]", r"`sources\[0\].samples`='many' can't be used"),
        ("sources: []", "must have a list `sources`"),
        ("- a.json", "must have a list `sources`"),
        ("source: [{path: a.json}]", "must have a list `sources`"),
        ("sources: [{path: a.json}]\nseed: 3", "unknown key `seed`; known: root, sources"),
        ("sources: [{path: a.json}]\nroot: [a]", "`root` must be a folder"),
        ("sources: [", "mix.yaml is not valid YAML"),
    ],
)
def test_mixtures_that_are_refused(tmp_path, text, message):
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_sources(ConversationData(source=str(tmp_path / "mix.yaml")))


def test_settings_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match="There are no conversations: set `data.source`"):
        ConversationDataset(ConversationData())
    with pytest.raises(ValueError, match="`data.max_length` must be at least 1, got 0"):
        ConversationData(max_length=0)
    with pytest.raises(ValueError, match="none.yaml can't be read"):
        ConversationDataset(ConversationData(source=str(tmp_path / "none.yaml")))
    with pytest.raises(ValueError, match="`data.images` is not for a mixture"):
        ConversationDataset(ConversationData(source="mix.yaml", images="images"))


def test_the_shipped_mixture_is_the_paper_s():
    """Table 5: sizes in thousands, and their sum."""
    file = importlib.resources.files("llava_uhd_v2_hf.data") / "mixtures/uhd-v2-858k.yaml"
    sources = read_sources(ConversationData(source=str(file)))
    sizes = [158, 40, 83, 72, 9, 80, 15, 20, 66, 20, 22, 55, 3, 11, 40, 30, 48, 86]
    assert [source.samples for source in sources] == [1000 * size for size in sizes]
    assert sum(sizes) == 858
    assert sum(source.prompt == "Answer the question using a single word or phrase." for source in sources) == 6
    assert "data/mixtures/*.yaml" in (ROOT / "setup.cfg").read_text()


# Streams


def read_all(source, ranks, workers, seed=0, **more):
    """An epoch of a stream, read by every worker of every process: (rank, answer)."""
    read = []
    for rank in range(ranks):
        data = ConversationData(source=source, streaming=True, shuffle_buffer=4, **more)
        stream = ConversationStream(data, seed, rank=rank, world_size=ranks)
        loader = DataLoader(OneEpoch(stream), batch_size=None, num_workers=workers)
        read += [(rank, sample["messages"][-1]["content"]) for sample in loader]
    return read


class OneEpoch(torch.utils.data.IterableDataset):
    """The first epoch of an endless stream."""

    def __init__(self, stream):
        self.stream = stream

    def __iter__(self):
        return self.stream.samples_of_epoch(0)


@pytest.mark.parametrize(("shards", "ranks", "workers"), [(1, 1, 0), (4, 2, 2), (3, 2, 0), (2, 1, 2), (3, 3, 1)])
def test_every_sample_is_streamed_once_an_epoch(tmp_path, shards, ranks, workers):
    """Over all processes and workers, whether or not the shards fit their number."""
    source = write_parquet(tmp_path / "set", 13, shards)
    read = read_all(source, ranks, workers)
    assert sorted(answer for _, answer in read) == sorted(f"answer {n}" for n in range(13))
    assert {rank for rank, _ in read} == set(range(ranks))
    assert read_all(source, ranks, workers) == read


def test_a_stream_goes_on_with_another_order_and_resumes(tmp_path):
    source = write_parquet(tmp_path / "set", 6, shards=2)
    data = ConversationData(source=source, streaming=True, shuffle_buffer=4)
    whole = [sample for sample, _ in zip(ConversationStream(data, 3), range(24))]
    epochs = [answers(whole[start : start + 6]) for start in range(0, 24, 6)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs) and len({tuple(e) for e in epochs}) > 1
    assert any(sample["images"] and sample["images"][0].size == (60, 40) for sample in whole)
    resumed = ConversationStream(data, 3, start_batch=5, batch_size=2)
    assert answers(sample for sample, _ in zip(resumed, range(14))) == answers(whole[10:])


def test_a_stream_resumes_with_workers(tmp_path):
    """Batches that were read before are passed over by the worker that read them."""
    source = write_parquet(tmp_path / "set", 24, shards=2)
    data = ConversationData(source=source, streaming=True, shuffle_buffer=4)

    def batches(count, **more):
        stream = ConversationStream(data, 3, batch_size=2, **more)
        loader = DataLoader(stream, batch_size=2, num_workers=2, collate_fn=answers)
        return [batch for batch, _ in zip(loader, range(count))]

    assert batches(4, start_batch=4) == batches(8)[4:]


def test_a_streamed_mixture_keeps_its_proportions(tmp_path):
    for name, count in (("a", 30), ("b", 30)):
        write_parquet(tmp_path / name, count, shards=1)
    mixture = write_mixture(
        tmp_path / "mix.yaml",
        {"path": "a", "samples": 300, "prompt": "From a."},
        {"path": "b", "samples": 100, "prompt": "From b."},
    )
    data = ConversationData(source=mixture, streaming=True, shuffle_buffer=4)
    first = [sample["messages"][0]["content"] for sample, _ in zip(ConversationStream(data), range(200))]
    share = sum(text.endswith("From a.") for text in first) / len(first)
    assert 0.6 < share < 0.9
    again = [sample["messages"][0]["content"] for sample, _ in zip(ConversationStream(data), range(200))]
    assert again == first


def test_what_a_stream_refuses(tmp_path):
    source = write_parquet(tmp_path / "set", 4, shards=1)
    with pytest.raises(ValueError, match="1 shards for a process with 2 workers; set `training.dataloader_num"):
        ConversationStream(ConversationData(source=source, streaming=True), num_workers=2)
    with pytest.raises(ValueError, match="a.json can't be streamed"):
        ConversationStream(ConversationData(source="a.json", streaming=True))
    mixture = write_mixture(tmp_path / "mix.yaml", {"path": "set"}, {"path": "set", "weight": 2})
    with pytest.raises(ValueError, match="needs `samples` of every source"):
        ConversationStream(ConversationData(source=mixture, streaming=True))


def test_a_stream_names_and_skips_missing_images(tmp_path):
    rows = [record(n, f"{n}.png") for n in range(4)]
    for row in rows[1:]:
        (tmp_path / row["image"]).write_bytes(png())
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    source = str(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=rf"a.parquet, process 0, .*: `image`: there is no file {tmp_path}/0.png"):
        read_all(source, 1, 0)
    data = ConversationData(source=source, streaming=True, missing_images="skip")
    stream = ConversationStream(data)
    assert len(list(stream.samples_of_epoch(0))) == 3
    assert stream.counts.totals() == {"missing_images": 1}


# Resizing before slicing


def test_sizes_are_the_recorded_ones(reference):
    recordings = [json.loads(line) for line in (reference / "pre_resize.jsonl").read_text().splitlines()]
    assert recordings
    for entry in recordings:
        height, width = entry["height"], entry["width"]
        sequential = pre_resized(height, width, "textvqa/a.jpg", "released-sequential", generator(0))
        permute = pre_resized(height, width, "TextVQA_a.jpg", "released-permute", generator(0))
        assert [*sequential[::-1]] == entry["keep_ratio_1024"]
        assert [*permute[::-1]] == entry["permute_version_keep_ratio_1024"]
        assert [*area_of_six_slices(height, width)[::-1]] == entry["resize_as_grid_6_336"]


def test_one_in_ten_gets_the_area_of_six_slices():
    sizes = [pre_resized(600, 600, "a.jpg", "released-permute", generator(0, n)) for n in range(1000)]
    assert set(sizes) == {(600, 600), area_of_six_slices(600, 600)}
    share = sizes.count(area_of_six_slices(600, 600)) / 1000
    assert abs(share - SIX_SLICES_PROBABILITY) < 4 * np.sqrt(0.1 * 0.9 / 1000)
    six = area_of_six_slices(672, 1008)
    assert {pre_resized(*six, "a.jpg", "released-permute", generator(0, n)) for n in range(200)} == {six}


def test_images_are_resized_as_their_sizes_say(folder):
    """A name in a record counts with its folders, the folder of all images doesn't."""
    for name in ("a/textvqa/images", "textvqa/b/images"):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.png").write_bytes(png())
    beside = ConversationData(
        source=write_json(folder / "b.json", [record(0, "images/0.png")]),
        images=str(folder / "textvqa/b"),
        pre_resize="released-sequential",
    )
    assert ConversationDataset(beside)[0]["images"][0].size == (60, 40)
    source = write_json(folder / "a.json", [record(0, "a/textvqa/images/0.png")])
    for rule, size in (("released-permute", (1024, 682)), (None, (60, 40))):
        data = ConversationDataset(ConversationData(source=source, pre_resize=rule))
        assert data[0]["images"][0].size == size
        assert data.image_sizes(data.located(0), 0) == [size[::-1]]


def test_the_draws_depend_on_seed_and_number_alone(folder):
    records = [record(n, "images/0.png") for n in range(60)]
    data = ConversationData(source=write_json(folder / "a.json", records), pre_resize="released-sequential")
    sizes = [ConversationDataset(data, seed)[n]["images"][0].size for seed in (0, 1) for n in range(60)]
    assert sizes[:60] != sizes[60:] and len(set(sizes)) == 2
    whole = ConversationDataset(data, 0)
    assert [whole[n]["images"][0].size for n in reversed(range(60))] == sizes[59::-1]


@pytest.mark.parametrize("url", ["http://a/b.png", "HTTPS://a/b.png", "data:image/png;base64,AA", "DATA:;base64,AA"])
def test_urls_are_no_files_of_the_folder(url):
    assert locate_image(url, "images") == url
