# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Records by number, each with its place: from LLaVA's .json and .jsonl files, or through `datasets`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np


_SPACE = re.compile(r"[ \t\n\r]*")


class Records(Protocol):
    """Records by number, with a place that a message can name.

    Attributes:
        embed_images (`bool`): whether images are in the records themselves, so that reading one takes long.
    """

    embed_images: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[str, Any]: ...


class RecordFile:
    """The records of a .json file, a list, or of a .jsonl file, one a line. They stay in the file until they are read.

    Args:
        path: the file.

    Raises:
        ValueError: naming file and line, if it can't be read, is no list in JSON, or is empty; reading a record of a
            .jsonl file, if its line is no JSON.
    """

    embed_images = False

    def __init__(self, path: str):
        self.path = path
        try:
            spans = list(_jsonl_spans(path) if path.endswith(".jsonl") else _json_spans(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} can't be read: {error}; set `data.source`.") from error
        if not spans:
            raise ValueError(f"{path} has no records.")
        self.spans = np.array(spans)  # of each record, first byte, end and line: one block, workers don't copy it

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        start, end, line = map(int, self.spans[index])
        with open(self.path, "rb") as file:
            file.seek(start)
            text = file.read(end - start)
        try:
            return f"{self.path}:{line}", json.loads(text)
        except ValueError as error:
            raise ValueError(f"{self.path}:{line}: the record is no JSON: {error}.") from error


def _jsonl_spans(path: str) -> Iterator[tuple[int, int, int]]:
    start = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield start, start + len(line), number
            start += len(line)


def _json_spans(path: str) -> Iterator[tuple[int, int, int]]:
    text = Path(path).read_bytes().decode("utf-8")
    decoder = json.JSONDecoder()
    place, start, line = 0, 0, 1  # in characters, in bytes, in lines
    position = _skip_space(text, int(text.startswith("\ufeff")))  # a byte-order mark
    try:
        if text[position : position + 1] != "[":
            raise json.JSONDecodeError("the file must be a list of records", text, position)
        position = _skip_space(text, position + 1)
        while text[position : position + 1] != "]":
            _, end = decoder.raw_decode(text, position)
            start += len(text[place:position].encode())
            line += text.count("\n", place, position)
            size = len(text[position:end].encode())
            yield start, start + size, line
            start, line, place = start + size, line + text.count("\n", position, end), end
            position = _skip_space(text, end)
            if text[position : position + 1] == ",":
                position = _skip_space(text, position + 1)
            elif text[position : position + 1] != "]":
                raise json.JSONDecodeError("there must be a comma or the list's end", text, position)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: the file is no JSON: {error}.") from error


def _skip_space(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()


class DatasetRecords:
    """The rows of a data set of `datasets`, images not decoded.

    Args:
        dataset: the data set.
        name: of it, for messages.
    """

    def __init__(self, dataset: Any, name: str):
        self.dataset, self.name = dataset, name
        self.embed_images = bool(_image_columns(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        return f"{self.name}, row {index}", self.dataset[index]


def open_records(path: str, split: str) -> Records:
    """The records of a source.

    Args:
        path: a .json or .jsonl file, a .parquet file or a folder of them, or a data set of the Hub.
        split: of a data set.

    Raises:
        ValueError: if there is no such source, or it is empty or can't be read.
    """
    if path.endswith((".json", ".jsonl")):
        return RecordFile(path)
    if path.endswith(".py"):
        raise ValueError(f"{path} makes its records one after the other; set `data.streaming`=true.")
    dataset = open_dataset(path, split, streaming=False)
    if not len(dataset):
        raise ValueError(f"{path} has no records in its split `{split}`.")
    return DatasetRecords(dataset, path)


def open_dataset(path: str, split: str, *, streaming: bool) -> Any:
    """A data set of `datasets`, or an iterable one, images not decoded.

    Raises:
        ValueError: as [`open_records`].
    """
    import datasets  # takes a second

    try:
        if path.endswith(".parquet"):
            dataset = datasets.load_dataset("parquet", data_files=path, split=split, streaming=streaming)
        else:
            dataset = datasets.load_dataset(path, split=split, streaming=streaming)
    except Exception as error:  # what its builders raise has no common class
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} is no .json, .jsonl or .parquet file and no data set that can be read ({reason}); set "
            "`data.source`."
        ) from error
    undecoded = datasets.Image(decode=False)
    for column, is_list in _image_columns(dataset).items():
        dataset = dataset.cast_column(column, datasets.List(undecoded) if is_list else undecoded)
    return dataset


def _image_columns(dataset: Any) -> dict[str, bool]:
    """The columns of images, and whether they are of lists of them."""
    import datasets

    columns = {}
    for column, feature in (dataset.features or {}).items():
        inner = getattr(feature, "feature", None)
        if isinstance(feature, datasets.Image) or isinstance(inner, datasets.Image):
            columns[column] = inner is not None
    return columns


__all__ = ["DatasetRecords", "RecordFile", "Records", "open_dataset", "open_records"]
