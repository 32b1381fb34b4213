# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""One training at a time in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from transformers import TrainingArguments

from .processes import on_main_process


LOCK_NAME = "_training.lock"  # Trainer pushes no file that begins with _
PATIENCE = 10  # seconds: the workers of a training that was killed end, and let go of the lock, within 5


@contextmanager
def locked_folder(args: TrainingArguments) -> Iterator[None]:
    """Keeps other trainings out of `args.output_dir`; the lock goes with the process, also when it is killed.

    Args:
        args: of the training, whose processes have the lock together.

    Raises:
        ValueError: if another training has it.
    """
    folder = Path(args.output_dir)
    lock = FileLock(folder / LOCK_NAME)

    def acquire() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise ValueError(
                f"Another training runs in {folder}; wait for its end, or choose another `training.output_dir`."
            ) from error

    on_main_process(args, acquire)
    try:
        yield
    finally:
        if lock.is_locked:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
            with suppress(OSError):  # not empty
                folder.rmdir()


__all__ = ["LOCK_NAME", "locked_folder"]
