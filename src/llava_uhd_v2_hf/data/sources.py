# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Formats of data: `SOURCES` has them by the suffix of their files.

To add one, register a function that yields place and record of each record of a file:

    def read_csv(path, split):
        with open(path, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=1):
                yield f"{path}, row {number}", to_record(row)

    SOURCES[".csv"] = read_csv

A place is text that messages name, such as file and line; they add the `id` of the record. A record is what
[`read_conversation`] takes.
"""

import inspect
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..utils.hub_ids import find_folder
from .dataset_records import DatasetRecords, open_dataset
from .records import RecordFile, Records, SpooledRecords, json_spans, jsonl_spans
from .script_source import open_script


Reader = Callable[[str, str], Iterable[tuple[str, Any]]]
MIXTURES = (".yaml", ".yml")  # lists of sources, see [`MixtureSource`]


@runtime_checkable
class Source(Protocol):
    """A format of data, for trainings that read records by number and for those that stream."""

    def open(self, path: str, split: str) -> Records:
        """Opens the records of a file for access by number.

        Raises:
            ValueError: if the file can't be read, has no records, or can only be streamed.
        """

    def stream(self, path: str, split: str) -> Any:
        """Opens an iterable data set of `datasets` with rows of `place` (empty if not known) and `record`.

        Workers share its shards.

        Raises:
            ValueError: if the file can't be read or streamed.
        """


class FunctionSource:
    """A format that a function reads. By number, its records are spooled to disk first, see [`SpooledRecords`].

    A stream has one shard: a process reads it itself or with one worker, and several processes take turns.

    Args:
        read: yields (place, record), see [`SOURCES`].
    """

    def __init__(self, read: Reader):
        self.read = read

    def open(self, path: str, split: str) -> Records:
        """See [`Source`].

        Raises:
            ValueError: if the file can't be read, has no records, or the function yields something else.
        """
        records = SpooledRecords(_read_pairs(self.read, path, split))
        if not len(records):
            raise ValueError(f"{path} has no records.")
        return records

    def stream(self, path: str, split: str) -> Any:
        """See [`Source`]; the file is opened when the stream is read."""
        import datasets  # takes a second

        return datasets.IterableDataset.from_generator(
            _read_rows, gen_kwargs={"read": self.read, "path": path, "split": split}
        )


def _read_rows(read: Reader, path: str, split: str) -> Iterator[dict[str, Any]]:
    for place, record in _read_pairs(read, path, split):
        yield {"place": place, "record": record}


def _read_pairs(read: Reader, path: str, split: str) -> Iterator[tuple[str, Any]]:
    name = getattr(read, "__qualname__", repr(read))
    try:
        pairs = read(path, split)
        if not isinstance(pairs, Iterable):
            raise ValueError(f"Expected (place, record) pairs from {name} for {path}, got {pairs!r}.")
        for pair in pairs:
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
                shown = repr(pair) if len(repr(pair)) <= 60 else f"{repr(pair)[:60]}..."
                raise ValueError(
                    f"Expected (place, record) pairs with text as place from {name} for {path}, got {shown}."
                )
            yield pair
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read: {error}; set `data.source`.") from error


class JsonSource:
    """Files of JSON, whose records stay in the file until they are read, see [`RecordFile`].

    Args:
        find_spans: of the file's layout, see [`RecordFile`].
    """

    def __init__(self, find_spans: Callable[[str], Iterator[tuple[int, int, int]]]):
        self.find_spans = find_spans

    def open(self, path: str, split: str) -> Records:
        """See [`Source`]; `split` is not used."""
        return RecordFile(path, self.find_spans)

    def stream(self, path: str, split: str) -> Any:
        """Refuses to.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{path} can't be streamed; set `data.streaming`=false, which leaves records in their file too."
        )


class ScriptSource:
    """Python files that generate records, see [`open_script`]; streamed only."""

    def open(self, path: str, split: str) -> Records:
        """Refuses to.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{path} makes its records one after the other; set `data.streaming`=true.")

    def stream(self, path: str, split: str) -> Any:
        """See [`Source`] and [`open_script`]."""
        return open_script(path, split)


class DatasetSource:
    """Data sets that `datasets` reads.

    Args:
        builder: of `datasets` that reads the files, such as "parquet"; None for a folder or a data set of the Hub.
    """

    def __init__(self, builder: str | None = None):
        self.builder = builder

    def open(self, path: str, split: str) -> Records:
        """See [`Source`].

        Raises:
            ValueError: if the data set can't be read or is empty.
        """
        dataset = self._load(path, split, streaming=False)
        if not len(dataset):
            raise ValueError(f"{path} has no records in its split `{split}`.")
        return DatasetRecords(dataset, path)

    def stream(self, path: str, split: str) -> Any:
        """See [`Source`].

        Raises:
            ValueError: if the data set can't be read.
        """
        dataset = self._load(path, split, streaming=True)
        return dataset.map(_as_row, remove_columns=list(dataset.column_names or []))

    def _load(self, path: str, split: str, *, streaming: bool) -> Any:
        try:
            if self.builder is None:
                find_folder(path)
            return open_dataset(path, split, builder=self.builder, streaming=streaming)
        except ValueError as error:
            raise ValueError(f"Expected {_known_sources()}, got {path} ({error}); set `data.source`.") from error


def _as_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"place": "", "record": row}


class SourceRegistry(UserDict[str, Source]):
    """Formats by suffix, such as ".csv". A function that is registered becomes a [`FunctionSource`].

    Raises (from `registry[suffix] = source`):
        ValueError: if the suffix has no dot or is registered already, or the source lacks the interface.
    """

    def __setitem__(self, suffix: str, source: Source | Reader) -> None:
        if not suffix.startswith(".") or suffix == ".":
            raise ValueError(f"Expected a suffix that begins with a dot, such as '.csv', got {suffix!r}.")
        if suffix in self.data or suffix in MIXTURES:
            raise ValueError(f"The suffix {suffix!r} is registered already; known: {', '.join([*self, *MIXTURES])}.")
        if not isinstance(source, Source):
            _check_reader(suffix, source)
            source = FunctionSource(source)
        self.data[suffix] = source


def _check_reader(suffix: str, read: Any) -> None:
    expected = f"Expected a function read(path, split) that yields (place, record) for {suffix!r}, got {read!r}"
    if not callable(read):
        raise ValueError(f"{expected}.")
    try:
        inspect.signature(read).bind("path", "split")
    except TypeError as error:
        raise ValueError(f"{expected}: {error}.") from error


SOURCES = SourceRegistry(
    {
        ".json": JsonSource(json_spans),
        ".jsonl": JsonSource(jsonl_spans),
        ".parquet": DatasetSource("parquet"),
        ".py": ScriptSource(),
    }
)
_DATA_SETS = DatasetSource()


def registered_suffix(path: str) -> str | None:
    """Returns the longest suffix in [`SOURCES`] that a path ends in; None if there is none."""
    return max((suffix for suffix in SOURCES if path.endswith(suffix)), key=len, default=None)


def find_source(path: str) -> Source:
    """Returns the format of a file, or that of folders and data sets of the Hub for what is not a file.

    Raises:
        ValueError: if the path is a file with a suffix that is not registered.
    """
    suffix = registered_suffix(path)
    if suffix is not None:
        return SOURCES[suffix]
    if Path(path).is_file():
        raise ValueError(
            f"Expected {_known_sources()}, got the file {path}; register a function that reads it in `SOURCES` (in "
            "commands, `--extension FILE`), or set `data.source`."
        )
    return _DATA_SETS


def _known_sources() -> str:
    return f"a file that ends in {', '.join(SOURCES)}, a folder of .parquet files or a data set of the Hub"


__all__ = ["SOURCES", "FunctionSource", "Source", "SourceRegistry", "find_source", "registered_suffix"]
