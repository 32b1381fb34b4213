# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The projector in both orders on an accelerator, beside the tower: time and memory, inference and training.

    python benchmarks/projector_accelerator.py [--views 7] [--dtype bfloat16] [--repeats 5]

At the default size, random weights, views of 24x24 patches.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from transformers import CLIPVisionModel

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.model.projectors_hiwin_llava_uhd_v2 import LlavaUhdV2Projector


GRID, PATCH = 24, 14


def measure(call: Callable[[], object], repeats: int) -> tuple[float, int]:
    """Median milliseconds of a call, and the bytes that it takes at most beyond what was there."""
    call()
    torch.accelerator.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, times = torch.cuda.memory_allocated(), []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        torch.accelerator.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times), torch.cuda.max_memory_allocated() - before


def build(dtype: torch.dtype, views: int) -> tuple[CLIPVisionModel, LlavaUhdV2Projector, torch.Tensor, torch.Tensor]:
    """Tower, projector, features (v, c, h, w) and pixels (v, 3, H, W), all random, on the accelerator."""
    torch.manual_seed(0)
    config = LlavaUhdV2Config()
    projector = LlavaUhdV2Projector(config)
    for parameter in projector.parameters():
        nn.init.normal_(parameter, std=0.02)
    tower = CLIPVisionModel(config.vision_config)
    shape = (views, config.vision_config.hidden_size, GRID, GRID)
    tensors = torch.randn(shape), torch.randn(views, 3, GRID * PATCH, GRID * PATCH)
    features, pixels = (tensor.to("cuda", dtype) for tensor in tensors)
    return tower.to("cuda", dtype).eval(), projector.to("cuda", dtype).eval(), features, pixels


def train_step(projector: LlavaUhdV2Projector, call: Callable[[], torch.Tensor]) -> Callable[[], None]:
    def step() -> None:
        projector.zero_grad()
        call().float().sum().backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=7)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    tower, projector, features, pixels = build(getattr(torch, arguments.dtype), arguments.views)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {arguments.dtype}, {arguments.views} views")

    calls = {
        "plain": lambda: projector([features], [pixels], plain=True)[0],
        "plain, keys and values projected once": lambda: projector.call_layers(features, pixels),
        "as it runs": lambda: projector([features], [pixels])[0],
    }
    with torch.no_grad():
        print(f"{'tower':<40}{measure(lambda: tower(pixels), arguments.repeats)[0]:8.1f} ms")
        for name, call in calls.items():
            milliseconds, memory = measure(call, arguments.repeats)
            print(f"{name:<40}{milliseconds:8.1f} ms{memory / 2**20:8.0f} MB")
        projector.fold()
        print(f"{'folded before':<40}{measure(calls['as it runs'], arguments.repeats)[0]:8.1f} ms")
    projector.train()
    projector.upsampler.requires_grad_(False)
    features.requires_grad_()
    for name in ("plain, keys and values projected once", "as it runs"):
        milliseconds, memory = measure(train_step(projector, calls[name]), arguments.repeats)
        print(f"{'training, ' + name:<40}{milliseconds:8.1f} ms{memory / 2**20:8.0f} MB")


if __name__ == "__main__":
    main()
