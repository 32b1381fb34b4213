# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Records that a user's Python file makes while they are trained on."""

import json

import pytest
from torch.utils.data import DataLoader

from llava_uhd_v2_hf.data.mixtures import ConversationData
from llava_uhd_v2_hf.data.samples import ConversationDataset
from llava_uhd_v2_hf.data.streams import ConversationStream


SCRIPT = """
import io
from PIL import Image
from beside import SIZE

SHARDS = 4

def records(split, shard):
    for number in range(5):
        file = io.BytesIO()
        Image.new("RGB", SIZE, (shard, number, 0)).save(file, "PNG")
        turns = [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", "value": f"{split} {shard} {number}"}]
        yield {"image": {"bytes": file.getvalue()}, "conversations": turns}
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "beside.py").write_text("SIZE = (8, 6)\n")
    (tmp_path / "pages_of_test.py").write_text(SCRIPT)
    return tmp_path / "pages_of_test.py"


def first(stream, count, workers=0):
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    return [sample for sample, _ in zip(loader, range(count))]


def test_every_record_is_made_once_an_epoch_whatever_the_workers(script):
    data = ConversationData(source=str(script), split="night", streaming=True, shuffle_buffer=1)
    wanted = sorted(f"night {shard} {number}" for shard in range(4) for number in range(5))
    for workers in (0, 2):
        samples = first(ConversationStream(data, num_workers=workers), 20, workers)
        assert sorted(sample["messages"][-1]["content"] for sample in samples) == wanted
    for sample in samples:
        _, shard, number = sample["messages"][-1]["content"].split()
        assert sample["images"][0].size == (8, 6)
        assert sample["images"][0].getpixel((0, 0)) == (int(shard), int(number), 0)


def test_a_buffer_of_one_keeps_the_order_of_a_shard(script):
    data = ConversationData(source=str(script), streaming=True, shuffle_buffer=1)
    answers = [sample["messages"][-1]["content"].split() for sample in first(ConversationStream(data, 3), 20)]
    numbers = [int(number) for _, _, number in answers]
    assert numbers == [0, 1, 2, 3, 4] * 4


def test_a_script_is_part_of_a_mixture(script, tmp_path):
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(json.dumps({"sources": [{"path": script.name, "samples": 1}]}))
    [sample] = first(ConversationStream(ConversationData(source=str(mixture), streaming=True)), 1)
    assert sample["messages"][-1]["content"].startswith("train ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("SHARDS = 0\ndef records(split, shard): yield {}", "a number `SHARDS` of at least 1"),
        ("SHARDS = 2", "must have a function `records"),
        ("raise RuntimeError('no fonts')", "can't be run: RuntimeError: no fonts"),
    ],
)
def test_what_is_no_script_is_named(tmp_path, text, problem):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem) as error:
        ConversationStream(ConversationData(source=str(path), streaming=True))
    assert str(path) in str(error.value)


def test_a_script_must_be_there_and_streamed(script, tmp_path):
    with pytest.raises(ValueError, match="There is no Python file"):
        ConversationStream(ConversationData(source=str(tmp_path / "missing.py"), streaming=True))
    with pytest.raises(ValueError, match="`data.streaming`=true"):
        ConversationDataset(ConversationData(source=str(script)))
