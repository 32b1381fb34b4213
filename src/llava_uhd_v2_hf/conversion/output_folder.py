# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A folder that appears when it is complete: disk space, staging and checksums.

Everything is written to a folder `OUTPUT.<host>.<process>.partial` beside OUTPUT. The one file without which nothing
loads the folder (config.json) has another name until the very end: the folder is renamed first, that file last. So a
process that is killed at any point leaves nothing that loads, and what it left is removed by the next run.
"""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm


PARTIAL = ".partial"
RECORD_NAME = "conversion.json"
SPARE_BYTES = 2**26  # room for tokenizer, configuration and index
SMALL_FILES = (".json", ".model", ".txt", ".jinja")  # suffixes of what a checkpoint folder has beside weights
RECORDED_PACKAGES = ("llava-uhd-v2-hf", "transformers", "torch", "safetensors", "peft")


def read_json(path: Path) -> dict[str, Any]:
    """
    Raises:
        ValueError: if the file is not there or not a JSON object.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path}.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is truncated or not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, but holds a {type(values).__name__}.")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def small_files(folder: Path) -> list[Path]:
    """Configuration and tokenizer files of a checkpoint folder."""
    return sorted(path for path in folder.iterdir() if path.suffix in SMALL_FILES and path.is_file())


def prepare_output(output: Path, key_file: str) -> None:
    """Removes what runs that were killed left at `output` and beside it, and says so.

    Args:
        output: the folder that is to be written.
        key_file: the file without which nothing loads the folder.

    Raises:
        ValueError: if `output` is in use.
    """
    if output.exists():
        if (output / (key_file + PARTIAL)).is_file() and not (output / key_file).exists():
            _remove(output)
        elif not output.is_dir() or any(output.iterdir()):
            raise ValueError(f"{output} exists and is not an empty folder; choose another name or remove it.")
        elif output.is_mount():
            raise ValueError(f"{output} is a mount point, which can't be replaced; write to a new folder in it.")
    if output.parent.is_dir():
        for folder in list(output.parent.iterdir()):
            if _is_abandoned(folder, output.name):
                _remove(folder)


def _remove(folder: Path) -> None:
    print(f"Removing {folder}, left by a run that did not finish.")
    shutil.rmtree(folder)


def _is_abandoned(folder: Path, name: str) -> bool:
    """Whether this is the staging folder of a process of this machine that is no more."""
    start = f"{name}.{socket.gethostname()}."
    process = folder.name.removeprefix(start).removesuffix(PARTIAL)
    if folder.name != f"{start}{process}{PARTIAL}" or not process.isdecimal() or os.name == "nt":
        return False
    if int(process) == os.getpid():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def check_disk_space(output: Path, needed: int) -> None:
    """
    Args:
        output: the folder that is to be written.
        needed: bytes of its weights.

    Raises:
        ValueError: if they don't fit on its disk, with needed and free bytes.
    """
    existing = next(path for path in (output, *output.parents) if path.exists())
    needed, free = needed + SPARE_BYTES, shutil.disk_usage(existing).free
    if needed > free:
        raise ValueError(
            f"{output.name} needs {needed} bytes ({needed / 1e9:.1f} GB), but the disk of {existing} has {free} bytes "
            f"({free / 1e9:.1f} GB) free; make room or choose another disk."
        )


@contextmanager
def staged(output: Path, key_file: str) -> Iterator[Path]:
    """A new folder beside `output` that takes its name at the end, and vanishes after an error.

    Args:
        output: the folder that appears at the end; it must not exist, or be empty.
        key_file: the file without which nothing loads the folder; write it as `key_file + PARTIAL`.
    """
    folder = output.with_name(f"{output.name}.{socket.gethostname()}.{os.getpid()}{PARTIAL}")
    folder.mkdir(parents=True)
    try:
        yield folder
        for path in folder.rglob("*"):
            if path.is_file():
                _flush_to_disk(path)
        if output.exists():
            output.rmdir()
        folder.rename(output)
        (output / (key_file + PARTIAL)).rename(output / key_file)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


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
    **values: Any,
) -> None:
    """Writes conversion.json: what was made from what, how, when and with which versions.

    Args:
        folder: the staged folder, complete but for this file.
        command: the command that was run, without arguments.
        options: its options; paths are recorded by their last part.
        sources: files that were read, by the name under which they are recorded.
        hashes: SHA-256 of files in `folder` that are known already, by name.
        values: further entries.
    """
    with tqdm(
        total=sum(path.stat().st_size for path in sources.values()),
        desc="Hashing sources",
        unit="B",
        unit_scale=True,
        disable=None,
    ) as progress:
        read = {name: _describe(path, hash_file(path, progress)) for name, path in sources.items()}
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
