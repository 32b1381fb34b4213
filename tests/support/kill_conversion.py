# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Kills conversions, each at another step, and prints what was left as JSON lines; test_convert_killed.py runs it.

    python tests/support/kill_conversion.py SOURCE VISION_CONFIG WORK

A step is everything that changes files under WORK: a folder made, renamed or removed, a file opened, half of what is
written to it, and its end. Each conversion is a fork of this process, which has imported everything.
"""

import builtins
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from llava_uhd_v2_hf.conversion import weight_files
from llava_uhd_v2_hf.conversion.convert import convert_checkpoint


torch.set_num_threads(1)
weight_files.MAX_SHARD_SIZE = 4 * 10**6  # three shards
AUDITED = ("os.mkdir", "os.rename", "os.rmdir", "os.remove", "shutil.rmtree")
SEEN_WRITES = (1, 2, 20)  # of each file
plain_open = open


class WatchedFile:
    """A file that takes a step in the middle of some of its writes and when it is closed."""

    def __init__(self, file, name: str, step: Callable[[str], None]):
        self.file, self.name, self.step, self.writes = file, name, step, 0

    def write(self, data) -> None:
        self.writes += 1
        if self.writes not in SEEN_WRITES:
            self.file.write(data)
            return
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        self.step(f"half of write {self.writes} to {self.name}")
        self.file.write(data[len(data) // 2 :])

    def close(self) -> None:
        self.file.close()
        self.step(f"after {self.name}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def watch(work: Path, step: Callable[[str], None]) -> None:
    """Takes a step, with a label, around everything that changes files under `work`."""

    def watched_open(path, mode="r", *args, **kwargs):
        # "rb+" opens a finished file to flush it to the disk
        if not isinstance(path, (str, Path)) or not str(path).startswith(str(work)) or mode in ("r", "rb", "rb+"):
            return plain_open(path, mode, *args, **kwargs)
        step(f"before {Path(path).name}")
        return WatchedFile(plain_open(path, mode, *args, **kwargs), Path(path).name, step)

    def audit(event, arguments):
        if event in AUDITED and str(arguments[0]).startswith(str(work)):
            names = " to ".join(Path(path).name for path in arguments[:2] if isinstance(path, (str, Path)))
            step(f"{event} {names.replace(str(os.getpid()), 'PID')}")

    builtins.open = io.open = watched_open
    sys.addaudithook(audit)


def in_child(action: Callable[[], None]) -> int:
    """Runs an action in a fork of this process; returns what `os.waitpid` says."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        sys.stdout = plain_open(os.devnull, "w")
        action()
        os._exit(0)
    return os.waitpid(process, 0)[1]


def loads(folder: Path) -> bool:
    try:
        AutoConfig.from_pretrained(folder)
    except (OSError, ValueError):
        return False
    return True


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def main(source: Path, vision_config: Path, work: Path) -> None:
    output = work / "model"
    labels_file = work.with_suffix(".labels")

    def convert() -> None:
        convert_checkpoint(source, output, vision_config=vision_config, skip_tokenizer=True)

    def record() -> None:
        labels: list[str] = []
        watch(work, labels.append)
        convert()
        with plain_open(labels_file, "w") as file:
            json.dump(labels, file)

    def convert_until(kill_at: int) -> None:
        steps = iter(range(10**6))

        def step(_: str) -> None:
            if next(steps) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        watch(work, step)
        convert()

    def convert_and_load() -> None:
        convert()
        _, report = AutoModelForImageTextToText.from_pretrained(output, output_loading_info=True)
        assert not any(report.values())

    work.mkdir()
    assert in_child(record) == 0
    reference = names(output)
    labels = json.loads(labels_file.read_text())
    for index in range(len(labels)):
        for path in sorted(work.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        status = in_child(lambda index=index: convert_until(index))
        left = names(work)
        unfinished = [name for name in left if names(work / name) != reference and loads(work / name)]
        print(
            json.dumps(
                {
                    "step": labels[index],
                    "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
                    "left": left,
                    "loads_unfinished": unfinished,
                    "next_run": in_child(convert_and_load),
                    "then": names(work),
                    "complete": names(output) == reference,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]).resolve())
