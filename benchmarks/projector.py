# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The projector in the plain order against the order it runs in, beside the vision tower: time, memory, FLOPs.

    python benchmarks/projector.py --views 7 [--dtype bfloat16] [--levels 0 2] [--json FILE]

At the released size, with random weights; on the GPU where there is one, else on the CPU with `--threads`. The sides
alternate in one process; memory is the peak of a fresh process a side above what is there before the call. `warm` is
folded beforehand (`fold_projector()`), `cold` folds in every call. The tower is timed with SDPA at its fastest batch
size of 1, 2 and `--views`.
"""

import argparse
import ctypes
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from side_by_side import alternate, describe_machine, print_table, ratios, spread, time_once, write_json
from torch.utils.flop_counter import FlopCounterMode
from vision_memory import DEVICE, read_status

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.projector_llava_uhd_v2 import LlavaUhdV2Projector
from llava_uhd_v2_hf.vision_llava_uhd_v2 import LlavaUhdV2VisionEncoder


Views = tuple[list[torch.Tensor], list[torch.Tensor]]


def build_encoder(arguments: argparse.Namespace, device: str = DEVICE) -> LlavaUhdV2VisionEncoder:
    """Tower and projector of the released size (or a tiny one), in evaluation mode."""
    sizes: dict[str, Any] = {}
    if arguments.tiny:
        sizes["vision_config"] = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
        sizes["text_config"] = {"hidden_size": 64, "num_attention_heads": 2, "vocab_size": 32001}
    heads = {"num_attention_heads": 2} if arguments.tiny else {}
    config = LlavaUhdV2Config(**sizes, projector_config={"levels": arguments.levels, **heads})
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    with torch.device(device):
        encoder = LlavaUhdV2VisionEncoder(config).eval()
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    torch.set_default_dtype(torch.float32)
    return encoder


def make_views(encoder: LlavaUhdV2VisionEncoder, count: int) -> Views:
    """Features and pixels of `count` views of 24x24 patches."""
    queries = encoder.projector.window_attention.queries
    generator = torch.Generator().manual_seed(0)
    channels = encoder.projector.window_attention.num_channels
    features = torch.randn(count, channels, 24, 24, generator=generator)
    pixels = torch.randn(count, 3, 336, 336, generator=generator)
    return [features.to(queries)], [pixels.to(queries)]


@torch.inference_mode()
def project(projector: LlavaUhdV2Projector, views: Views, plain: bool = False, folded: bool = False) -> None:
    if not folded:
        projector.unfold()
    elif projector._kept is None:
        projector.fold()
    projector(*views, plain=plain)


def train(projector: LlavaUhdV2Projector, views: Views, plain: bool) -> None:
    """Forward and backward with a frozen up-sampler, gradients to the features too."""
    projector.zero_grad()
    features = [views[0][0].clone().requires_grad_()]
    projector(features, views[1], plain=plain)[0].sum().backward()


@torch.inference_mode()
def run_tower(encoder: LlavaUhdV2VisionEncoder, pixels: torch.Tensor, batch: int) -> None:
    for part in pixels.split(batch):
        encoder.run_tower(part)


def count_flops(run: Callable[[], None]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def count_parts(arguments: argparse.Namespace) -> dict[str, float]:
    """GFLOP of a view of 24x24 patches, counted without computing; folding is shared by the views of a call."""
    encoder = build_encoder(arguments, "meta")
    projector, count = encoder.projector, arguments.views
    views = tuple([tensor.to("meta") for tensor in part] for part in make_views(encoder, count))
    projector.requires_grad_(False)
    products = count_flops(lambda: projector.multiply_weights([9] * count))
    cold = count_flops(lambda: projector(*views))
    return {
        "tower": count_flops(partial(run_tower, encoder, views[1][0], count)) / count,
        "plain": count_flops(lambda: projector(*views, plain=True)) / count,
        "cold": cold / count,
        "warm": (cold - products) / count,
    }


def measure_peak(run: Callable[[], None]) -> int:
    """Bytes above what is there before the call."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps would hide what the call takes
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = read_status("VmRSS")
    run()
    return read_status("VmHWM") - before


def measure_side(arguments: argparse.Namespace) -> int:
    """Bytes of one side, in this process: the peak of a call, or what a forward pass keeps for the backward pass."""
    encoder = build_encoder(arguments)
    projector, side = encoder.projector, arguments.side
    project(projector, make_views(encoder, 1), plain=side.startswith("plain"))  # libraries start their own memory
    views = make_views(encoder, arguments.views)
    if "activations" not in side:
        return measure_peak(partial(project, projector, views, plain=side == "plain"))
    saved: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in projector.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    projector.upsampler.requires_grad_(False)
    views[0][0].requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tokens = projector(*views, plain=side.startswith("plain"))
    del tokens
    return sum(saved.values())


def in_fresh_process(side: str) -> int:
    """[`measure_side`] in a process of its own, which prints the number last."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    encoder = build_encoder(arguments)
    projector, views = encoder.projector, make_views(encoder, arguments.views)
    pixels = views[1][0]
    batches = sorted({1, 2, arguments.views})
    run_tower(encoder, pixels, 1)
    fastest = min(batches, key=lambda batch: time_once(partial(run_tower, encoder, pixels, batch)))
    seconds = alternate(
        {
            "tower": partial(run_tower, encoder, pixels, fastest),
            "plain": partial(project, projector, views, plain=True),
            "cold": partial(project, projector, views),
            "warm": partial(project, projector, views, folded=True),  # the run that isn't timed folds
        },
        arguments.repeats,
    )
    projector.unfold()
    projector.upsampler.requires_grad_(False)
    one_view = make_views(encoder, arguments.train_views)
    train_seconds = alternate(
        {"plain": partial(train, projector, one_view, plain=True), "fast": partial(train, projector, one_view, False)},
        arguments.repeats,
    )
    gigaflops = count_parts(arguments)
    memory = {side: in_fresh_process(side) for side in ("plain", "fast", "plain activations", "fast activations")}
    return {
        "machine": describe_machine(),
        "views": arguments.views,
        "train_views": arguments.train_views,
        "dtype": arguments.dtype,
        "levels": arguments.levels,
        "tower_batch": fastest,
        "gigaflops_a_view": gigaflops,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "train_seconds": {name: spread(values) for name, values in train_seconds.items()},
        "bytes": memory,
        "plain_share": ratios(seconds["plain"], seconds["tower"]),
        "vit_share_warm": ratios(seconds["warm"], seconds["tower"]),
        "vit_share_cold": ratios(seconds["cold"], seconds["tower"]),
        "forward_ratio_warm": ratios(seconds["plain"], seconds["warm"]),
        "forward_ratio_cold": ratios(seconds["plain"], seconds["cold"]),
        "train_ratio": ratios(train_seconds["plain"], train_seconds["fast"]),
        "memory_ratio": memory["plain"] / memory["fast"],
        "activation_ratio": memory["plain activations"] / memory["fast activations"],
    }


def print_report(report: dict[str, Any]) -> None:
    views = report["views"]
    rows = [{"side": "tower", **side_of(report, "tower")}]
    rows += [{"side": f"projector, {name}", **side_of(report, name)} for name in ("plain", "cold", "warm")]
    print_table(rows, title=f"{views} views, {report['dtype']}, levels {report['levels']}")
    keys = [key for key in report if key.endswith(("_ratio", "_ratio_warm", "_ratio_cold")) or "_share" in key]
    print_table([{"figure": key, "median (minimum to maximum)": report[key]} for key in keys])


def side_of(report: dict[str, Any], name: str) -> dict[str, Any]:
    return {"seconds": report["seconds"][name], "GFLOP a view": report["gigaflops_a_view"][name]}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, default=7)
    parser.add_argument("--train-views", type=int, default=1, help="views of a training step")
    parser.add_argument("--levels", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a toy size, to see that everything runs")
    parser.add_argument("--side", help=argparse.SUPPRESS)
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
