# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Compares the projectors at the released size: parameters, tokens, FLOPs, time and peak memory for one view.

    python benchmarks/projectors.py [--dtype float32] [--repeats 1] [--json FILE]

Projector and up-sampler alone, for a view of 24x24 patches of CLIP-ViT-L/14-336 and the width of Vicuna-7B, with
random weights, without gradients: on the GPU where there is one, else on the CPU (Linux). FLOPs are counted as in
flops.py, 2 a multiply-add; of Hiwin they are those of the order in which it runs. The estimate is that of `inspect`.
"""

import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from unittest.mock import patch

import side_by_side
import torch
import typer
from flops import count
from vision_memory import DEVICE, read_peak, reset_peak

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.model.projectors_hiwin_llava_uhd_v2 import LlavaUhdV2Projector
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import PROJECTORS


SIDE, CHANNELS = 24, 1024
PROJECTOR_CONFIGS: list[dict[str, Any]] = [
    {"projector_type": "hiwin"},
    {"projector_type": "hiwin", "levels": [0, 2]},
    {"projector_type": "uhd_v1"},
    {"projector_type": "uhd_v1", "levels": [2]},
    {"projector_type": "mlp_pyramid", "levels": [0, 2]},
    {"projector_type": "mlp_pyramid", "mlp_depth": 1},
    {"projector_type": "perceiver"},
    {"projector_type": "perceiver", "levels": [0, 2]},
    {"projector_type": "mlp"},
]


def make_view(device: str, dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Features and pixels of one view."""
    sizes = (1, CHANNELS, SIDE, SIDE), (1, 3, 14 * SIDE, 14 * SIDE)
    features, pixels = (torch.randn(size, device=device, dtype=dtype) for size in sizes)
    return [features], [pixels]


def count_flops(config: LlavaUhdV2Config) -> int:
    """FLOPs of a view, on tensors without data."""
    with torch.device("meta"):
        projector = PROJECTORS[config.projector_config.projector_type](config).eval().requires_grad_(False)
    view = make_view("meta", torch.float32)
    # tensors without data are counted as the ordinary weights that they stand for
    with patch.object(LlavaUhdV2Projector, "can_reorder", return_value=True):
        count(lambda: projector(*view))  # makes tables that are kept
        return count(lambda: projector(*view))[0]


@torch.inference_mode()
def measure(config: LlavaUhdV2Config, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Median time and peak memory of a view, beside the weights."""
    kind = PROJECTORS[config.projector_config.projector_type]
    projector = kind(config).eval().to(DEVICE, dtype)
    torch.manual_seed(0)
    projector.reset_parameters()
    view = make_view(DEVICE, dtype)
    projector(*view)
    before, seconds = reset_peak(), []
    for _ in range(repeats):
        start = time.perf_counter()
        [tokens] = projector(*view)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {
        "M parameters": sum(parameter.numel() for parameter in projector.parameters()) / 1e6,
        "tokens": tokens.shape[1],
        "seconds": median(seconds),
        "peak MB": (read_peak() - before) / 1e6,
        "estimated MB": kind.memory(config, {(SIDE, SIDE): 1}, dtype) / 1e6,
    }


def main(
    dtype: Annotated[str, typer.Option(help="Of the weights.")] = "float32",
    repeats: Annotated[int, typer.Option(help="Calls that are timed; the first one is not.")] = 1,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.")] = None,
) -> None:
    """Compares the projectors at the released size."""
    rows = []
    for values in PROJECTOR_CONFIGS:
        config = LlavaUhdV2Config(projector_config=values)
        projector = config.projector_config
        row = {"projector": projector.projector_type, "levels": " ".join(map(str, projector.levels))}
        rows.append(row | {"GFLOPs": count_flops(config) / 1e9} | measure(config, getattr(torch, dtype), repeats))
        side_by_side.print_table(rows[-1:], f"{DEVICE}, {dtype}, one view of {SIDE}x{SIDE} patches")
    side_by_side.print_table(rows, f"{DEVICE}, {dtype}, one view of {SIDE}x{SIDE} patches")
    if json is not None:
        side_by_side.write_json(json, {"device": DEVICE, "dtype": dtype, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
