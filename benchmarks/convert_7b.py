# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Converts a synthetic checkpoint of the size of Vicuna-7B, verifies it, and prints time, memory and disk.

    python benchmarks/convert_7b.py WORK [--keys tests/golden/keys_vicuna7b.json]

Names and shapes are the released ones, the numbers random in bfloat16: 15 GB of source and as much of output, so WORK
needs 32 GB of disk. The folders are removed at the end. Memory is `RssAnon` of the process, sampled every 20 ms: what
it allocates, without the pages of mapped files that the system can drop.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from llava_uhd_v2_hf.conversion import weight_files
from llava_uhd_v2_hf.conversion.weight_files import LazyTensor, write_shards


ROOT = Path(__file__).parents[1]

SOURCE_SHARD_SIZE = 5 * 10**9  # bytes, what transformers 4 wrote by default
BLOCK = 2**24  # random numbers that are repeated


def random_parts(shape: list[int], index: int, block: torch.Tensor) -> Iterator[torch.Tensor]:
    """The parts of tensor number `index`: the block over and over, each time scaled differently."""
    if not shape:
        yield block[index]
        return
    width = torch.Size(shape[1:]).numel()
    rows = max(1, len(block) // width)
    for part, start in enumerate(range(0, shape[0], rows)):
        count = min(rows, shape[0] - start)
        yield (block[: count * width] * (1 + index / 1000 + part / 100)).view(count, *shape[1:])


def write_source(folder: Path, keys: dict[str, Any]) -> None:
    """A released checkpoint of random numbers, without tokenizer.

    Args:
        folder: to write.
        keys: a `keys_*.json`: names and shapes in "model", the language model's values in "language_config".
    """
    folder.mkdir(parents=True)
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)) / 50
    tensors = {
        name: LazyTensor(shape, lambda shape=shape, index=index: random_parts(shape, index, block), (name,))
        for index, (name, shape) in enumerate(keys["model"].items())
    }
    shard_size, weight_files.MAX_SHARD_SIZE = weight_files.MAX_SHARD_SIZE, SOURCE_SHARD_SIZE
    write_shards(folder, tensors, torch.bfloat16)
    weight_files.MAX_SHARD_SIZE = shard_size
    values = keys["language_config"] | {
        "model_type": "llava_llama",
        "feature_scale_mask": keys["feature_scale_mask"],
        "mm_projector_type": "adapt_spatial_resampler",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": str(folder / "vision_tower"),
    }
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "vision_tower").mkdir()
    (folder / "vision_tower/config.json").write_text(json.dumps(keys["vision_config"]))


@dataclass(frozen=True)
class Measured:
    """What a process took.

    Args:
        seconds: from start to end.
        peak: largest `RssAnon`, in bytes.
    """

    seconds: float
    peak: int


def measure(command: list[str]) -> Measured:
    """Runs a command and samples its memory.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    start, peak = time.monotonic(), 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                peak = max(peak, int(line.split()[1]) * 1024)
        time.sleep(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Measured(time.monotonic() - start, peak)


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(work: Path, keys: dict[str, Any]) -> dict[str, Measured]:
    """Writes a source in `work`, converts and verifies it; prints a table and returns what each step took."""
    source, output = work / "source", work / "output"
    start = time.monotonic()
    write_source(source, keys)
    print(f"Source written in {time.monotonic() - start:.0f} s.", flush=True)
    measured = {
        "convert": measure(
            [sys.executable, str(ROOT / "convert/convert_checkpoint.py"), str(source), str(output), "--skip-tokenizer"]
        ),
        "verify": measure([sys.executable, str(ROOT / "convert/verify_checkpoint.py"), str(source), str(output)]),
    }
    shards = sorted(path.stat().st_size for path in output.glob("*.safetensors"))
    print(f"\n{'':10}{'seconds':>10}{'peak RssAnon':>16}")
    for step, value in measured.items():
        print(f"{step:10}{value.seconds:10.0f}{value.peak / 1e9:13.2f} GB")
    print(f"source {folder_size(source) / 1e9:.2f} GB, output {folder_size(output) / 1e9:.2f} GB")
    print(f"{len(shards)} output shards, the largest of {shards[-1] / 1e9:.2f} GB")
    return measured


def main(
    work: Annotated[Path, typer.Argument(help="Folder with 32 GB of free disk; it must not exist.")],
    keys: Annotated[Path, typer.Option(help="Names and shapes.")] = ROOT / "tests/golden/keys_vicuna7b.json",
) -> None:
    """Converts a synthetic checkpoint of the size of Vicuna-7B and prints time, memory and disk."""
    work.mkdir(parents=True)
    try:
        run(work, json.loads(keys.read_text()))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    typer.run(main)
