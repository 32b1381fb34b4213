# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Kills trainings at random moments and prints what was left as JSON lines; test_checkpoints.py runs it.

    python tests/support/kill_training.py CHECKPOINT SAMPLES WORK COUNT

Each training is a fork of this process, which has imported everything. One that is not killed comes first.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from llava_uhd_v2_hf.training import families
from llava_uhd_v2_hf.training.checkpoints import is_whole, last_checkpoint
from tests.support.finetune_runs import PLAIN, RECIPES, settings


torch.set_num_threads(1)
STEPS = 6
MORE = [
    *("lora.r=2", "parts.vision_tower.train=false", f"training.max_steps={STEPS}", "training.save_steps=1"),
    "training.save_total_limit=2",
]
RESULT = "adapter_config.json"


def fork(action: Callable[[], object], log: Path) -> int:
    """Runs an action in a fork of this process, which is returned."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return process


def losses_of(folder: Path) -> dict[str, float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


def weights_of(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def main(model: str, samples: str, work: Path, count: int) -> None:
    def train(folder: Path) -> int:
        arguments = [*settings(model, samples, folder, *MORE), *PLAIN]
        return fork(lambda: families.train("sft", RECIPES["sft"], arguments), work / f"{folder.name}.log")

    work.mkdir()
    started = time.monotonic()
    assert os.waitpid(train(work / "whole"), 0)[1] == 0
    seconds, source = time.monotonic() - started, random.Random(0)
    losses, weights = losses_of(work / "whole"), weights_of(work / "whole")
    for number in range(count):
        folder = work / str(number)
        process = train(folder)
        time.sleep(source.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        killed = os.waitpid(process, 0)[1] == signal.SIGKILL
        last = last_checkpoint(folder)
        left = {
            "killed": killed,
            "result": (folder / RESULT).exists(),
            "steps": int(last.name.rpartition("-")[2]) if last else 0,
            "unfinished": [path.name for path in folder.glob("checkpoint-*") if not is_whole(path)],
        }
        code = os.waitstatus_to_exitcode(os.waitpid(train(folder), 0)[1])
        same = code == 0 and losses_of(folder) == losses and weights_of(folder) == weights
        print(json.dumps({**left, "code": code, "same": same}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
