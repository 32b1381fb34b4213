# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Records that a user's Python file generates during the training, such as rendered documents."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ..utils.python_files import run_python_file


@lru_cache
def load_script(path: str) -> ModuleType:
    """Returns the module in a file; what lies beside it can be imported by it.

    Raises:
        ValueError: if the file can't be run, or has no function `records` or no number `SHARDS`.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no Python file {path}; set `data.source`.")
    module = run_python_file(path)
    shards = getattr(module, "SHARDS", None)
    if not callable(getattr(module, "records", None)) or not isinstance(shards, int) or shards < 1:
        raise ValueError(f"{path} must have a function `records(split, shard)` and a number `SHARDS` of at least 1.")
    return module


def open_script(path: str, split: str) -> Any:
    """Opens an iterable data set of the records of a script, in its shards; its rows are `place` and `record`.

    Args:
        path: of the file, with a function `records(split, shard)`, which yields records as of a .json file (an image
            is a name, or a mapping with the `bytes` of its file), and `SHARDS`, how many shards there are.
        split: handed to `records`.

    Raises:
        ValueError: if the file is not such a script.
    """
    import datasets

    shards = list(range(load_script(path).SHARDS))
    return datasets.IterableDataset.from_generator(
        _records, gen_kwargs={"shards": shards, "path": path, "split": split}
    )


def _records(shards: list[int], path: str, split: str) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for number, record in enumerate(load_script(path).records(split, shard)):
            yield {"place": f"{path}, shard {shard}, record {number}", "record": record}


__all__ = ["load_script", "open_script"]
