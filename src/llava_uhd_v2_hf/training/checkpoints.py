# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of a training: each is whole or not used.

A checkpoint has a manifest, which is written last and lists the other files with size and checksum. While the others
are written, the manifest says that they are not all there.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..utils.atomic import atomic_write, flush_files
from ..utils.file_facts import FileFacts, file_facts
from .processes import on_main_process


logger = logging.get_logger(__name__)

MANIFEST = "checkpoint_files.json"
UNLISTED = (MANIFEST, TRAINING_ARGS_NAME)  # nothing reads the latter, and it is not sent to the Hub
PUSHED_CHECKPOINT = "last-checkpoint"  # the name that `hub_strategy: checkpoint` gives it on the Hub


class UnfinishedCheckpoint(ValueError):
    """A checkpoint whose saving did not come to its end."""


class DamagedCheckpoint(ValueError):
    """A checkpoint whose files are not those that were saved."""


def begin_checkpoint(folder: Path) -> None:
    """Makes the folder of a checkpoint, in place of one that is there, with the manifest of an unfinished one."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    _write_manifest(folder, None)


def finish_checkpoint(folder: Path) -> None:
    """Flushes the files of a checkpoint to the disk and writes its manifest."""
    flush_files(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in UNLISTED)
    _write_manifest(folder, {path.relative_to(folder).as_posix(): file_facts(path) for path in paths})


def _write_manifest(folder: Path, files: dict[str, FileFacts] | None) -> None:
    with atomic_write(folder / MANIFEST) as unfinished:
        unfinished.write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")


def check_checkpoint_files(folder: Path) -> None:
    """Checks that a checkpoint is whole.

    Raises:
        UnfinishedCheckpoint: if its saving did not come to its end.
        DamagedCheckpoint: naming the file that is missing or not as it was saved.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError as error:
        if not (folder / TRAINER_STATE_NAME).exists():
            raise UnfinishedCheckpoint("its saving was not finished") from error
        raise DamagedCheckpoint(f"{MANIFEST} is missing, or another version saved it") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{MANIFEST} can't be read") from error
    if files is None:
        raise UnfinishedCheckpoint("its saving was not finished")
    for name, saved in files.items():
        try:
            found = file_facts(folder / name)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            raise DamagedCheckpoint(f"{name} is missing" if missing else f"{name} can't be read: {error}") from error
        if found["bytes"] != saved["bytes"]:
            raise DamagedCheckpoint(f"{name} has {found['bytes']} bytes, but {saved['bytes']} were saved")
        if found != saved:
            raise DamagedCheckpoint(f"{name} has other contents than were saved")


def checkpoint_to_resume(args: TrainingArguments) -> Path | None:
    """`args.resume_from_checkpoint`, or else the last whole checkpoint in `args.output_dir`; None if there is none.

    Those that are passed over are named in a warning. All processes call it at the same place.

    Raises:
        ValueError: if `resume_from_checkpoint` is not a whole checkpoint, or none is whole and one is damaged.
    """
    return on_main_process(args, lambda: _checkpoint_to_resume(args))


def _checkpoint_to_resume(args: TrainingArguments) -> Path | None:
    if args.resume_from_checkpoint is None:
        return _last_whole(Path(args.output_dir))
    checkpoint = Path(args.resume_from_checkpoint)
    try:
        check_checkpoint_files(checkpoint)
        trained_steps(checkpoint)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`training.resume_from_checkpoint`={checkpoint} is not a checkpoint of a training: {error}; set it to a "
            "folder like checkpoint-500, or leave it out to resume from the last one."
        ) from error
    return checkpoint


def _last_whole(folder: Path) -> Path | None:
    passed_over, damaged = [], False
    for checkpoint in _newest_first(folder):
        try:
            check_checkpoint_files(checkpoint)
        except ValueError as error:
            passed_over.append(f"{checkpoint.name} ({error})")
            damaged = damaged or isinstance(error, DamagedCheckpoint)
            continue
        if passed_over:
            logger.warning(f"Not whole, and not used: {'; '.join(passed_over)}.")
        return checkpoint
    if damaged:
        raise ValueError(
            f"No checkpoint in {folder} is whole: {'; '.join(passed_over)}. Copy one here again, remove them to begin "
            "anew, or choose another `training.output_dir`."
        )
    if passed_over:
        logger.warning(f"Not whole, and not used: {'; '.join(passed_over)}. The training begins anew.")
    return None


def last_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the most steps, of a training here or downloaded from the Hub."""
    return next(filter(is_whole, _newest_first(folder)), None)


def is_whole(folder: Path) -> bool:
    """Returns whether this is a checkpoint with all its files as they were saved."""
    try:
        check_checkpoint_files(folder)
    except ValueError:
        return False
    return True


def describe_kept(folder: Path) -> str:
    """Says what a training that has stopped leaves for the same command."""
    kept = last_checkpoint(folder)
    if kept is None:
        return "there is no checkpoint yet, and the same command begins anew."
    return f"{kept} is kept, and the same command goes on from it."


def _newest_first(folder: Path) -> list[Path]:
    """The checkpoints by their steps; one that doesn't say how many it has comes first."""
    pushed = folder / PUSHED_CHECKPOINT
    numbered = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdecimal()]

    def steps(checkpoint: Path) -> float:
        if checkpoint != pushed:
            return int(checkpoint.name.rpartition("-")[2])
        with suppress(OSError, ValueError):
            return trained_steps(checkpoint)
        return float("inf")

    return sorted(numbered + [pushed] * pushed.is_dir(), key=steps, reverse=True)


def trained_steps(checkpoint: Path) -> int:
    """Steps before a checkpoint.

    Raises:
        OSError, ValueError: if it is none.
    """
    try:
        return int(json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{checkpoint / TRAINER_STATE_NAME} has no `global_step`") from error


@contextmanager
def saving(checkpoint: Path) -> Iterator[None]:
    """Removes a checkpoint that can't be written to its end, to make room, and says what is kept.

    Raises:
        OSError: if one of its files can't be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        of_torch = isinstance(error, RuntimeError)
        if of_torch and "inline_container" not in str(error):
            raise
        if not is_whole(checkpoint):
            shutil.rmtree(checkpoint, ignore_errors=True)
        reason = "a file can't be written to its end" if of_torch else " ".join(str(error).split())
        kept = describe_kept(checkpoint.parent)
        raise OSError(f"{checkpoint} can't be saved: {reason}; make room on the disk: {kept}") from error


__all__ = [
    "MANIFEST",
    "PUSHED_CHECKPOINT",
    "begin_checkpoint",
    "check_checkpoint_files",
    "checkpoint_to_resume",
    "describe_kept",
    "finish_checkpoint",
    "is_whole",
    "last_checkpoint",
    "saving",
    "trained_steps",
]
