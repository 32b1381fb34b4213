# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Atomic file writes: files and folders that appear complete or not at all, and free disk space.

Everything is written under another name beside its place and renamed at the end, after it has been flushed to the
disk. A folder has a key file, without which nothing loads it (config.json); it gets its name last. A process
that is killed at any point leaves nothing that loads by mistake, and what it left is removed by the next run.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .units import describe_bytes


PARTIAL = ".partial"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; renames it at the end, or removes it after an error."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path, key_file: str) -> Iterator[Path]:
    """Yields a new folder beside `target` to write to; renames it at the end, or removes it after an error.

    Args:
        target: the folder that appears at the end; it must not exist, or be empty.
        key_file: the file without which nothing loads the folder; write it as `key_file + PARTIAL`.

    Raises:
        ValueError: if `target` is in use, see [`prepare_folder`].
    """
    prepare_folder(target)
    with temporary_folder(target) as staged:
        yield staged
        flush_files(staged)
        if target.exists():
            target.rmdir()
        (staged / (key_file + PARTIAL)).rename(staged / key_file)  # all else is written by now
        staged.rename(target)


@contextmanager
def replaced_files(folder: Path, key_file: str, *, keep_key_file: bool = False) -> Iterator[Path]:
    """Yields an empty folder whose files are moved into `folder` at the end, in place of those of the same names.

    Args:
        folder: made if it does not exist.
        key_file: the file without which nothing loads the folder. It is removed first and comes last, so that nothing
            loads a mixture of old and new files.
        keep_key_file: whether the old key file stays until the new one replaces it: for files that leave the folder
            loadable.
    """
    with temporary_folder(folder / ".replaced") as staged:
        yield staged
        flush_files(staged)
        if not keep_key_file:
            (folder / key_file).unlink(missing_ok=True)
        for path in sorted(staged.iterdir(), key=lambda path: (path.name == key_file, path.name)):
            path.replace(folder / path.name)


@contextmanager
def temporary_folder(place: Path) -> Iterator[Path]:
    """Yields an empty folder beside `place` and removes it at the end; first removes those that killed runs left."""
    _remove_abandoned(place)
    folder = place.with_name(f"{place.name}.{socket.gethostname()}.{os.getpid()}{PARTIAL}")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        if folder.exists():  # not renamed
            shutil.rmtree(folder, ignore_errors=True)


def prepare_folder(target: Path) -> None:
    """Removes what killed runs of [`atomic_folder`] left beside `target`, and prints their names.

    Args:
        target: the folder that is to be written.

    Raises:
        ValueError: if `target` is a file, a mount point or a folder with files.
    """
    if target.exists():
        if not target.is_dir() or any(target.iterdir()):
            raise ValueError(f"{target} exists and is not an empty folder; choose another name or remove it.")
        if target.is_mount():
            raise ValueError(f"{target} is a mount point, which can't be replaced; write to a new folder in it.")
    _remove_abandoned(target)


def free_bytes(folder: Path) -> int:
    """Returns the free bytes of the disk that holds a folder, or will hold it."""
    return shutil.disk_usage(_nearest_existing(folder)).free


def check_free_space(folder: Path, needed: int) -> None:
    """Checks that files fit on the disk that holds a folder, or will hold it.

    Args:
        folder: the folder that is to be written.
        needed: bytes of its files.

    Raises:
        OSError: if fewer bytes are free.
    """
    if (free := free_bytes(folder)) < needed:
        raise OSError(
            f"{folder} needs {needed} bytes ({describe_bytes(needed)}), but the disk of {_nearest_existing(folder)} "
            f"has {free} bytes ({describe_bytes(free)}) free; make room or choose another disk."
        )


def flush_files(folder: Path) -> None:
    """Flushes the files of a folder and its sub-folders to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            _flush_to_disk(path)


def _nearest_existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _remove_abandoned(place: Path) -> None:
    if place.parent.is_dir():
        for folder in list(place.parent.iterdir()):
            if _is_abandoned(folder, place.name):
                _remove(folder)


def _is_abandoned(folder: Path, name: str) -> bool:
    """Returns whether this is the temporary folder of a process of this machine that no longer runs."""
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


def _remove(folder: Path) -> None:
    print(f"Removing {folder}, left by a run that did not finish.")
    shutil.rmtree(folder)


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


__all__ = [
    "PARTIAL",
    "atomic_folder",
    "atomic_write",
    "check_free_space",
    "flush_files",
    "free_bytes",
    "prepare_folder",
    "replaced_files",
    "temporary_folder",
]
