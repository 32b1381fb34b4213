# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Reading shards of every kind, writing them in pieces, and the record of a conversion."""

import hashlib
import io
import json
import pickle
import re
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from llava_uhd_v2_hf.conversion import weight_files
from llava_uhd_v2_hf.conversion.output_folder import SPARE_BYTES, write_record
from llava_uhd_v2_hf.conversion.weight_files import LazyTensor, WeightFiles, stored_tensor, write_file, write_shards
from llava_uhd_v2_hf.utils import atomic
from tests.support.checkpoints import convert, read_weights, write_released


@pytest.fixture
def source(reference, tmp_path):
    """A tiny checkpoint to be spoilt."""
    return write_released(reference, "c_llama", tmp_path / "source")


def lazy(tensors):
    return {name: LazyTensor(tensor.shape, lambda x=tensor: [x], (name,)) for name, tensor in tensors.items()}


# Reading


@pytest.mark.parametrize("suffix", ["safetensors", "bin", "legacy.bin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_files_of_every_kind_are_read(tmp_path, suffix, dtype):
    tensors = {"a": torch.randn(3, 4).to(dtype), "b": torch.tensor(2.5, dtype=dtype)}
    path = tmp_path / f"x.{suffix}"
    if suffix == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=suffix == "bin")
    weights = WeightFiles([path])
    assert weights.shapes == {"a": [3, 4], "b": []}
    assert set(weights.dtypes.values()) == {str(dtype).removeprefix("torch.")}
    for name, tensor in tensors.items():
        assert torch.equal(weights.read(name), tensor)


def test_files_that_cannot_be_mapped_are_held_one_at_a_time(tmp_path):
    for name in ("a", "b"):
        tensors = {f"{name}{index}": torch.full((2,), float(index)) for index in range(3)}
        torch.save(tensors, tmp_path / f"{name}.bin", _use_new_zipfile_serialization=False)
    weights = WeightFiles([tmp_path / "a.bin", tmp_path / "b.bin"])
    for name in ("a0", "b1", "a2"):
        assert weights.read(name)[0] == int(name[1])
        assert weights._whole[0] == tmp_path / f"{name[0]}.bin"


class NotATensor:
    """Something that `weights_only` refuses."""


def spoilt_files():
    whole = io.BytesIO()
    torch.save({"a": torch.ones(50)}, whole)
    legacy = io.BytesIO()
    torch.save({"a": torch.ones(50)}, legacy, _use_new_zipfile_serialization=False)
    other = io.BytesIO()
    torch.save({"a": NotATensor()}, other)
    numbers = io.BytesIO()
    torch.save({"a": 1.0}, numbers)
    nothing_by_name = io.BytesIO()
    torch.save([torch.ones(2)], nothing_by_name)
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    yield "truncated.bin", whole.getvalue()[:-40], "truncated"
    yield "half.bin", legacy.getvalue()[:-40], "truncated"
    yield "start.bin", legacy.getvalue()[:40], "truncated"
    yield "code.bin", other.getvalue(), "run code"
    yield "plain.bin", pickle.dumps({"a": NotATensor()}, protocol=2), "run code"
    yield "numbers.bin", numbers.getvalue(), "has also: a"
    yield "list.bin", nothing_by_name.getvalue(), "a table of tensors by name"
    yield "page.bin", b"<html>Not found</html>", "expected tensors saved by `torch.save`"
    yield "empty.bin", b"", "expected tensors saved by `torch.save`"
    yield "pointer.bin", lfs, "git lfs pull"
    yield "pointer.safetensors", lfs, "git lfs pull"
    yield "page.safetensors", b"<html>Not found</html>", "truncated or not a safetensors file"
    yield "empty.safetensors", b"", "truncated or not a safetensors file"


@pytest.mark.parametrize("name, data, message", list(spoilt_files()))
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_unreadable_files_are_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError) as error:
        WeightFiles([tmp_path / name])
    assert name in str(error.value)
    assert message in str(error.value)


def test_a_truncated_safetensors_file_is_named(tmp_path):
    save_file({"a": torch.ones(100)}, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match="x.safetensors is truncated"):
        WeightFiles([tmp_path / "x.safetensors"])


def test_a_pickle_that_is_refused_runs_nothing(tmp_path):
    target = tmp_path / "written"

    class Attack:
        def __reduce__(self):
            return Path.touch, (target,)

    torch.save({"a": Attack()}, tmp_path / "x.bin")
    with pytest.raises(ValueError, match="run code"):
        WeightFiles([tmp_path / "x.bin"])
    assert not target.exists()


def test_a_broken_index_is_named(source):
    (source / "model.safetensors.index.json").write_text('{"weight_map": {"a"')
    with pytest.raises(ValueError, match="index.json is truncated or not JSON"):
        convert(source, source.parent / "output")
    (source / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="no `weight_map`"):
        convert(source, source.parent / "output")
    (source / "tokenizer.model").write_bytes(b"nothing")
    (source / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match="tokenizer of .* cannot be read"):
        convert(source, source.parent / "output")


def test_numbers_of_other_kinds(source, tmp_path):
    weights = read_weights(source)
    name = "model.layers.0.mlp.up_proj.weight"
    expected = weights[name].to(torch.float8_e4m3fn)
    save_file(weights | {name: expected}, source / "model.safetensors")
    with pytest.raises(ValueError, match="no common dtype"):
        convert(source, tmp_path / "output")
    ours = read_weights(convert(source, tmp_path / "output", dtype="float32", skip_tokenizer=True))
    assert torch.equal(ours["model.language_model.layers.0.mlp.up_proj.weight"], expected.float())
    save_file(weights | {name: weights[name].to(torch.int8)}, source / "model.safetensors")
    with pytest.raises(ValueError, match=f"not quantised; found: .* 1 of int8 .such as `{name}`"):
        convert(source, tmp_path / "other", dtype="float32")


def test_a_float16_source_becomes_its_own_rounding(source, tmp_path):
    rounded = {name: tensor.half() for name, tensor in read_weights(source).items()}
    save_file(rounded, source / "model.safetensors")
    ours = read_weights(convert(source, tmp_path / "ours", skip_tokenizer=True))
    assert {tensor.dtype for tensor in ours.values()} == {torch.float16}
    assert torch.equal(ours["model.language_model.norm.weight"], rounded["model.norm.weight"])
    wider = read_weights(convert(source, tmp_path / "wider", skip_tokenizer=True, dtype="float32"))
    rows = 32000  # the new row of the embeddings is a mean, which is rounded once
    assert all(torch.equal(wider[name][:rows], tensor.float()[:rows]) for name, tensor in ours.items())


# Writing


@pytest.mark.parametrize("piece_size", [7, 2**24])
def test_written_shards_are_safetensors(tmp_path, monkeypatch, piece_size):
    monkeypatch.setattr(weight_files, "PIECE_SIZE", piece_size)
    monkeypatch.setattr(weight_files, "MAX_SHARD_SIZE", 200)
    tensors = {
        "matrix": torch.randn(9, 5),
        "transposed": torch.randn(4, 6).T,
        "scalar": torch.tensor(3.0),
        "maps": torch.randn(3, 2, 2, 2),
        "expanded": torch.randn(1, 5).expand(4, -1),
    }
    hashes = write_shards(tmp_path, lazy(tensors), torch.float32)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == hashes.keys() and len(hashes) > 1
    for name, filename in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / filename)[name], tensors[name]), name
    for filename, sha256 in hashes.items():
        assert hashlib.sha256((tmp_path / filename).read_bytes()).hexdigest() == sha256


def test_parts_follow_each_other(tmp_path):
    parts = [torch.zeros(2, 3), torch.ones(1, 3), torch.ones(0, 3)]
    write_file(tmp_path / "x.safetensors", {"a": LazyTensor((3, 3), lambda: parts, ("a",))}, torch.bfloat16)
    assert load_file(tmp_path / "x.safetensors")["a"].tolist() == [[0] * 3, [0] * 3, [1] * 3]
    with pytest.raises(RuntimeError, match="announced"):
        write_file(tmp_path / "x.safetensors", {"a": LazyTensor((4, 3), lambda: parts, ("a",))}, torch.bfloat16)


def test_progress_is_in_bytes(tmp_path, monkeypatch):
    bars = []

    class Bar(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs | {"disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(weight_files, "tqdm", Bar)
    write_shards(tmp_path, lazy({"a": torch.ones(500, 1000)}), torch.bfloat16)
    [bar] = bars
    assert bar.n == bar.total == 10**6
    assert "1.00M/1.00M" in str(bar) and "B/s" in str(bar)


def test_stored_tensors_are_not_copied(tmp_path):
    save_file({"a": torch.ones(4)}, tmp_path / "x.safetensors")
    tensor = stored_tensor(WeightFiles([tmp_path / "x.safetensors"]), "a")
    assert (list(tensor.shape), tensor.sources) == ([4], ("a",))


# The folder


def test_disk_space_is_checked_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(
        OSError, match=r"deep needs \d+ bytes \(\d+ MB\), but the disk of .* has 1000000 bytes"
    ) as error:
        convert(source, tmp_path / "new/deep")
    assert int(re.search(r"needs (\d+) bytes", str(error.value))[1]) > SPARE_BYTES
    assert not (tmp_path / "new").exists()


def test_record_has_checksums_and_no_paths(source, tmp_path):
    output = convert(source, tmp_path / "output", dtype="float32")
    text = (output / "conversion.json").read_text()
    assert str(tmp_path) not in text
    record = json.loads(text)
    assert record["command"] == "llava-uhd-v2 convert"
    assert record["repositories"] == {}  # a local folder
    assert record["options"] == {
        "vision_config": "vision_tower_config.json",
        "dtype": "float32",
        "skip_tokenizer": False,
    }
    assert datetime.fromisoformat(record["date"]).tzinfo is not None
    assert {"torch", "transformers", "safetensors"} <= record["versions"].keys()
    assert record["outputs"].keys() == {path.name for path in output.iterdir()} - {"conversion.json"}
    assert {"config.json", "model.safetensors", "tokenizer.model"} <= record["sources"].keys()
    described = record["sources"].pop("vision_config/vision_tower_config.json")
    assert described == record["sources"]["vision_tower_config.json"]
    for folder, files in ((source, record["sources"]), (output, record["outputs"])):
        for name, described in files.items():
            data = (folder / name).read_bytes()
            assert described == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}, name


def test_known_checksums_are_taken(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    write_record(
        tmp_path, command="s", options={"x": Path("/y/z")}, sources={}, hashes={"a": "known"}, states=[], more=[1]
    )
    record = json.loads((tmp_path / "conversion.json").read_text())
    assert (record["outputs"]["a"]["sha256"], record["options"], record["more"]) == ("known", {"x": "z"}, [1])
