# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Records by number, each with its place: those of a .json or .jsonl file, or of any iterator."""

import json
import os
import pickle
import re
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
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


def jsonl_spans(path: str) -> Iterator[tuple[int, int, int]]:
    """Yields the first byte, end and line of each record of a .jsonl file, one a line."""
    start = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield start, start + len(line), number
            start += len(line)


def json_spans(path: str) -> Iterator[tuple[int, int, int]]:
    """Yields the first byte, end and line of each record of a .json file, a list.

    Raises:
        ValueError: if the file is not a list in JSON, naming file, line and record.
    """
    text = Path(path).read_bytes().decode("utf-8")
    decoder = json.JSONDecoder()
    place, start, line, record = 0, 0, 1, 1  # in characters, in bytes, in lines, in records
    position = _skip_space(text, int(text.startswith("\ufeff")))  # a byte-order mark
    try:
        if text[position : position + 1] != "[":
            raise json.JSONDecodeError("the file must be a list of records", text, position)
        position = _skip_space(text, position + 1)
        while text[position : position + 1] != "]":
            _, end = decoder.raw_decode(text, position)
            record += 1
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
        where = f"{path}:{error.lineno}, record {record}"
        raise ValueError(f"{where}: the file is not valid JSON: {error}.") from error


def _skip_space(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()


class RecordFile:
    """Indexes the records of a file of JSON. They stay in the file until they are read.

    Their places have the line and the number of the record, both from 1: a file may have all records in one line.

    Args:
        path: the file.
        find_spans: finds the first byte, end and line of each record: [`json_spans`] or [`jsonl_spans`].

    Raises:
        ValueError: naming file, line and record, if it can't be read, is not a list in JSON, or is empty; reading a
            record of a .jsonl file, if its line is not valid JSON.
    """

    embed_images = False

    def __init__(self, path: str, find_spans: Callable[[str], Iterator[tuple[int, int, int]]] = json_spans):
        self.path = path
        try:
            spans = list(find_spans(path))
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
            return f"{self.path}:{line}, record {index + 1}", json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"{self.path}:{line}, record {index + 1}: the record is not valid JSON: {error}."
            ) from error


class SpooledRecords:
    """Reads an iterator once and keeps its records in a temporary file, for access by number.

    Memory: 8 bytes a record. Disk: the pickled records, in the folder of `tempfile`, until the object is deleted or
    the process ends. Copies of the object in workers read the same file.

    Args:
        pairs: place and record of each.
    """

    embed_images = False

    def __init__(self, pairs: Iterable[tuple[str, Any]]):
        descriptor, self.path = tempfile.mkstemp(prefix="llava-uhd-v2-records-")
        self._removal = weakref.finalize(self, _remove_in, os.getpid(), self.path)
        starts = [0]
        with open(descriptor, "wb") as file:
            for pair in pairs:
                file.write(pickle.dumps(pair))
                starts.append(file.tell())
        self.starts = np.array(starts)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "starts": self.starts}

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> tuple[str, Any]:
        start, end = map(int, self.starts[index : index + 2])
        with open(self.path, "rb") as file:
            file.seek(start)
            return pickle.loads(file.read(end - start))


def _remove_in(process: int, path: str) -> None:
    """Removes a file in the process that made it, and in no worker forked from it."""
    if os.getpid() == process:
        Path(path).unlink(missing_ok=True)


__all__ = ["RecordFile", "Records", "SpooledRecords", "json_spans", "jsonl_spans"]
