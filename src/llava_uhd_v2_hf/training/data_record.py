# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What the data of a training was when it began, so that a change is said when the training resumes."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..utils.atomic import atomic_write
from ..utils.file_facts import file_facts


logger = logging.get_logger(__name__)

DATA_NAME = "data_files.json"


def compare_data(folder: Path, data: Mapping[str, Any], *, resumes: bool) -> None:
    """Warns if the data is not what it was when the training in a folder began; records it where it begins.

    Args:
        folder: of the training.
        data: what is to stay, by name: values of JSON.
        resumes: whether the training has taken steps with the data that is recorded.
    """
    path, before = folder / DATA_NAME, None
    if resumes:
        with suppress(OSError, ValueError):
            before = dict(json.loads(path.read_text(encoding="utf-8")))
    if before is None:
        with atomic_write(path) as unfinished:
            unfinished.write_text(json.dumps(data, indent=1), encoding="utf-8")
        return
    if changed := sorted(name for name in before.keys() | data.keys() if before.get(name) != data.get(name)):
        logger.warning(
            f"Data has changed since this training began: {', '.join(changed)}. It goes on with what is there now, so "
            "that some samples may be seen twice and others never; restore the data, or train in another "
            "`training.output_dir`."
        )


def facts_of_files(paths: Iterable[str]) -> dict[str, Any]:
    """Returns size and checksum of the files, and of the .parquet files of the folders, among these paths."""
    files: list[Path] = []
    for path in map(Path, paths):
        files += sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    return {str(file): file_facts(file) for file in files}


__all__ = ["compare_data", "facts_of_files"]
