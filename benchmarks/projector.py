# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The projector in the plain order against the order it runs in, beside the vision tower: time, memory, FLOPs.

    python benchmarks/projector.py [--views 7] [--dtype bfloat16] [--levels 0 2] [--json FILE]

At the released size, with random weights; on the GPU where there is one, else on the CPU with `--threads`. The sides
alternate in one process. `warm` is folded beforehand (`fold_projector()`), `cold` folds in every call; training has a
frozen up-sampler and gradients to the features. The tower is timed with SDPA at its fastest batch size of 1, 2 and
`--views`, the plain order at its fastest of 1 and `--views`. Memory is the peak of a call with all views, in a fresh
process a side, above what is there before it, weights included; on a CPU glibc is told to give back what is freed.
"""

import argparse
import copy
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flops
import torch
from side_by_side import (
    Stopwatch,
    alternate,
    describe_machine,
    print_table,
    ratios,
    spread,
    time_once,
    write_json,
)
from vision_memory import DEVICE, read_peak, reset_peak

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.model import fast_order_llava_uhd_v2 as fast_projector
from llava_uhd_v2_hf.model.projectors_hiwin_llava_uhd_v2 import LlavaUhdV2Projector
from llava_uhd_v2_hf.model.upsamplers_vdim_llava_uhd_v2 import LlavaUhdV2Upsampler
from llava_uhd_v2_hf.model.vision_llava_uhd_v2 import LlavaUhdV2VisionEncoder


# glibc's heap would keep holes between tensors
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
Views = tuple[list[torch.Tensor], list[torch.Tensor]]
TINY = {
    "vision_config": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2},
    "text_config": {"hidden_size": 64, "num_attention_heads": 2, "vocab_size": 32001},
}


def build(kind: type[torch.nn.Module], arguments: argparse.Namespace, device: str = DEVICE) -> Any:
    """Projector alone, or with its tower, of the released size (or a tiny one), in evaluation mode."""
    sizes = TINY if arguments.tiny else {}
    heads = {"num_attention_heads": 2} if arguments.tiny else {}
    config = LlavaUhdV2Config(**sizes, projector_config={"levels": arguments.levels, **heads})
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    with torch.device(device):
        module = kind(config).eval()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    torch.set_default_dtype(torch.float32)
    return module


def make_views(projector: LlavaUhdV2Projector, count: int) -> Views:
    """Features and pixels of `count` views of 24x24 patches."""
    attention, generator = projector.window_attention, torch.Generator().manual_seed(0)
    features = torch.randn(count, attention.num_channels, 24, 24, generator=generator)
    pixels = torch.randn(count, 3, 336, 336, generator=generator)
    return [features.to(attention.queries)], [pixels.to(attention.queries)]


@torch.inference_mode()
def project(projector: LlavaUhdV2Projector, views: Views, batch: int | None = None, plain: bool = False) -> None:
    """Projects `batch` views at a time, by default all."""
    for features, pixels in zip(*(part[0].split(batch or len(part[0])) for part in views)):
        projector([features], [pixels], plain=plain)


def train(projector: LlavaUhdV2Projector, views: Views, plain: bool) -> None:
    """Forward and backward, gradients to the features too."""
    projector.zero_grad()
    features = [views[0][0].clone().requires_grad_()]
    projector(features, views[1], plain=plain)[0].sum().backward()


@torch.inference_mode()
def run_tower(encoder: LlavaUhdV2VisionEncoder, pixels: torch.Tensor, batch: int) -> None:
    for part in pixels.split(batch):
        encoder.encode_views(part, one_batch=True)


def count_gigaflops(arguments: argparse.Namespace) -> dict[str, float]:
    """GFLOP of a view of 24x24 patches, counted without computing; folding is shared by the views of a call."""
    encoder = build(LlavaUhdV2VisionEncoder, arguments, "meta").requires_grad_(False)
    pixels = torch.empty(1, 3, 336, 336, device="meta", dtype=getattr(torch, arguments.dtype))
    tower = flops.count(partial(run_tower, encoder, pixels, 1))[0]
    figures = {"tower": tower} | flops.count_view(encoder.projector, arguments.views)
    return {side: number / 1e9 for side, number in figures.items()}


class Sides:
    """What is timed: the tower and the projector's three sides, each with the seconds of its parts."""

    def __init__(self, encoder: LlavaUhdV2VisionEncoder, views: Views):
        self.views, projector = views, encoder.projector
        self.parts: dict[str, list[dict[str, float]]] = {}
        self.tower_batch = self.find_fastest(partial(run_tower, encoder, views[1][0]), {1, 2, len(views[1][0])})
        plain = partial(project, projector, views, plain=True)
        self.plain_batch = self.find_fastest(plain, {1, len(views[1][0])})
        folded = copy.deepcopy(projector)
        folded.fold()
        self.runs = {
            "tower": partial(run_tower, encoder, views[1][0], self.tower_batch),
            "plain": partial(self.run_in_parts, "plain", plain_places(projector), partial(plain, self.plain_batch)),
            "cold": partial(self.run_in_parts, "cold", places(projector), partial(project, projector, views)),
            "warm": partial(self.run_in_parts, "warm", places(folded), partial(project, folded, views)),
        }

    def find_fastest(self, run: Callable[[int], None], batches: set[int]) -> int:
        run(1)
        return min(sorted(batches), key=lambda batch: time_once(partial(run, batch)))

    def run_in_parts(self, side: str, places: Mapping[str, Any], run: Callable[[], None]) -> None:
        stopwatch = Stopwatch()
        with stopwatch.watch(places):
            run()
        self.parts.setdefault(side, []).append({label: stopwatch.seconds[label] for label in places})


def plain_places(projector: LlavaUhdV2Projector) -> dict[str, Any]:
    attention = projector.window_attention
    return {
        "up-sampling": [(projector.upsampler, "forward")],
        "levels projected and pooled": [(attention, "key_offsets"), (attention, "keys_and_values")],
        "attention": [(attention, "attend")],
        "output": [(attention, "combine")],
    }


def places(projector: LlavaUhdV2Projector) -> dict[str, Any]:
    return {
        "products of weights": [(projector, "multiply_weights")],
        "up-sampling": [
            (LlavaUhdV2Upsampler, "linear_levels"),
            *((fast_projector, name) for name in ("build_operators", "build_rows")),
        ],
        "levels normed and pooled": [(fast_projector, "pool_views")],
        "attention": [(fast_projector, "attend")],
        "output": [(projector.window_attention, "combine")],
    }


def count_activations(projector: LlavaUhdV2Projector, views: Views, plain: bool) -> int:
    """Bytes that a forward pass keeps for the backward pass, the weights left out."""
    saved: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in projector.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    features = [views[0][0].clone().requires_grad_()]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tokens = projector(features, views[1], plain=plain)
    del tokens
    return sum(saved.values())


def measure_side(arguments: argparse.Namespace) -> int:
    """Peak of a call of one side, in this process: bytes above what is there before."""
    projector, plain = build(LlavaUhdV2Projector, arguments), arguments.side == "plain"
    project(projector, make_views(projector, 1), plain=plain)  # libraries start their own memory
    views = make_views(projector, arguments.views)
    before = reset_peak()
    project(projector, views, plain=plain)
    return read_peak() - before


def measure_memory(repeats: int) -> dict[str, list[int]]:
    """[`measure_side`] in processes of their own, which print the number last; the sides in turns."""
    peaks: dict[str, list[int]] = {"plain": [], "cold": []}
    for _ in range(repeats):
        for side, values in peaks.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            output = subprocess.run(command, env=os.environ | GIVE_BACK, check=True, capture_output=True, text=True)
            values.append(int(output.stdout.split()[-1]))
    return peaks


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    gigaflops = count_gigaflops(arguments)
    encoder, repeats = build(LlavaUhdV2VisionEncoder, arguments), arguments.repeats
    projector = encoder.projector
    sides = Sides(encoder, make_views(projector, arguments.views))
    seconds = alternate(sides.runs, repeats)
    few = make_views(projector, arguments.train_views)
    projector.upsampler.requires_grad_(False)
    training = alternate(
        {side: partial(train, projector, few, side == "plain") for side in ("plain", "cold")}, repeats
    )
    activations = {
        side: [count_activations(projector, few, side == "plain") for _ in range(repeats)] for side in training
    }
    memory = measure_memory(repeats)
    return {
        "machine": describe_machine(),
        "views": arguments.views,
        "train_views": arguments.train_views,
        "dtype": arguments.dtype,
        "levels": arguments.levels,
        "tower_batch": sides.tower_batch,
        "plain_batch": sides.plain_batch,
        "gigaflops_a_view": gigaflops,
        "seconds": {side: spread(values) for side, values in seconds.items()},
        "part_seconds": {
            side: {label: spread([seconds[label] for seconds in runs[1:]]) for label in runs[0]}
            for side, runs in sides.parts.items()
        },
        "train_seconds": {side: spread(values) for side, values in training.items()},
        "peak_bytes": {side: spread(values) for side, values in memory.items()},
        "activation_bytes": {side: spread(values) for side, values in activations.items()},
        "plain_share": ratios(seconds["plain"], seconds["tower"]),
        "vit_share_warm": ratios(seconds["warm"], seconds["tower"]),
        "vit_share_cold": ratios(seconds["cold"], seconds["tower"]),
        "forward_ratio_warm": ratios(seconds["plain"], seconds["warm"]),
        "forward_ratio_cold": ratios(seconds["plain"], seconds["cold"]),
        "memory_ratio": ratios(memory["plain"], memory["cold"]),
        "train_ratio": ratios(training["plain"], training["cold"]),
        "activation_ratio": ratios(activations["plain"], activations["cold"]),
    }


def print_report(report: dict[str, Any]) -> None:
    title = f"{report['views']} views, {report['dtype']}, levels {report['levels']}"
    rows = [
        {"side": side if side == "tower" else f"projector, {side}", "seconds": seconds}
        | {"GFLOP a view": report["gigaflops_a_view"][side]}
        for side, seconds in report["seconds"].items()
    ]
    print_table(rows, title)
    print_table(
        [
            {"side": side, "part of a call": label, "seconds": seconds}
            for side, parts in report["part_seconds"].items()
            for label, seconds in parts.items()
        ]
    )
    rows = [
        {
            "side": side,
            f"forward and backward, {report['train_views']} view(s), s": report["train_seconds"][side],
            "kept for the backward pass, MB": in_megabytes(report["activation_bytes"][side]),
            f"peak of a forward pass, {report['views']} views, MB": in_megabytes(report["peak_bytes"][side]),
        }
        for side in report["peak_bytes"]
    ]
    print_table(rows)
    keys = [key for key in report if "_ratio" in key or "_share" in key]
    print_table([{"figure": key, "median (minimum to maximum)": report[key]} for key in keys])


def in_megabytes(numbers: dict[str, float]) -> dict[str, float]:
    return {name: number / 1e6 for name, number in numbers.items()}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, default=7)
    parser.add_argument("--train-views", type=int, default=2, help="views of a training step")
    parser.add_argument("--levels", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a toy size, to see that everything runs")
    parser.add_argument("--side", choices=["plain", "cold"], help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.side:
        print(measure_side(arguments))
        return
    report = compare(arguments)
    print_report(report)
    if arguments.json:
        write_json(arguments.json, report)


if __name__ == "__main__":
    main()
