# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What conversions write beside weights: JSON, and the record with checksums."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..utils.atomic import PARTIAL
from .stored_tensors import FileStates


RECORD_NAME = "conversion.json"
SPARE_BYTES = 2**26  # room for tokenizer, configuration and index
SMALL_FILES = (".json", ".model", ".txt", ".jinja")  # suffixes of what a checkpoint folder has beside weights
RECORDED_PACKAGES = ("llava-uhd-v2-hf", "transformers", "torch", "safetensors", "peft")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def small_files(folder: Path) -> list[Path]:
    """Configuration and tokenizer files of a checkpoint folder."""
    return sorted(path for path in folder.iterdir() if path.suffix in SMALL_FILES and path.is_file())


def hash_file(path: Path, progress: tqdm) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(2**24):
            digest.update(data)
            progress.update(len(data))
    return digest.hexdigest()


def write_record(
    folder: Path,
    *,
    command: str,
    options: Mapping[str, Any],
    sources: Mapping[str, Path],
    hashes: Mapping[str, str],
    states: Iterable[FileStates],
    **values: Any,
) -> None:
    """Writes conversion.json: what was made from what, how, when and with which versions.

    Args:
        folder: the staged folder, complete but for this file.
        command: the command that was run, without arguments.
        options: its options; paths are recorded by their last part.
        sources: files that were read, by the name under which they are recorded.
        hashes: SHA-256 of files in `folder` that are known already, by name.
        states: of the files that were read; hashing them is the last that is done with them.
        values: further entries.

    Raises:
        ValueError: if a file that was read has changed since.
    """
    with tqdm(
        total=sum(path.stat().st_size for path in sources.values()),
        desc="Hashing sources",
        unit="B",
        unit_scale=True,
        disable=None,
    ) as progress:
        read = {name: _describe(path, hash_file(path, progress)) for name, path in sources.items()}
    for state in states:
        state.check()
    written = {}
    with tqdm(disable=True) as silent:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = path.relative_to(folder).as_posix()
            written[name.removesuffix(PARTIAL)] = _describe(path, hashes.get(name) or hash_file(path, silent))
    versions = {}
    for package in RECORDED_PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    record = {
        "command": command,
        "options": {key: value.name if isinstance(value, Path) else value for key, value in options.items()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        **values,
        "sources": read,
        "outputs": written,
    }
    write_json(folder / RECORD_NAME, record)


def names_by_value(values: Mapping[str, str]) -> dict[str, list[str]]:
    """{"a": "x", "b": "x"} -> {"x": ["a", "b"]}."""
    groups: dict[str, list[str]] = {}
    for name, value in sorted(values.items()):
        groups.setdefault(value, []).append(name)
    return groups


def _describe(path: Path, sha256: str) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256}
