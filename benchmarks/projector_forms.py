# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Measures the rule by which the projector chooses its form: every form on models and calls of many sizes.

    python benchmarks/projector_forms.py [--views 1 --views 7] [--train] [--json FILE]

The forms alternate in one process, on views of 24x24 patches, with random weights. The last column is the time of the
form that the rule chooses over that of the fastest: 1 where it chose well.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import side_by_side
import torch
import typer
from vision_memory import DEVICE

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module
from llava_uhd_v2_hf.model.folding_llava_uhd_v2 import folding_pays, reordering_pays
from llava_uhd_v2_hf.model.projectors_hiwin_llava_uhd_v2 import LlavaUhdV2Projector


# (ViT channels, text width): of toys, of small models, of the released one
SIZES = [(64, 128), (128, 256), (256, 512), (384, 1024), (1024, 4096)]
HEAD_SIZE = 64
GRID, CELLS = (24, 24), 9
FORMS = ("plain", "unfolded", "folded")


def build_projector(channels: int, width: int, dtype: torch.dtype) -> LlavaUhdV2Projector:
    config = LlavaUhdV2Config(
        vision_config={"hidden_size": channels, "num_attention_heads": channels // HEAD_SIZE},
        text_config={"hidden_size": width, "num_attention_heads": width // HEAD_SIZE, "vocab_size": 32001},
        projector_config={"num_attention_heads": width // (2 * HEAD_SIZE)},
    )
    with torch.device(DEVICE):
        projector = LlavaUhdV2Projector(config).to(dtype).eval()
        for parameter in projector.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    projector.upsampler.requires_grad_(False)
    return projector


def choose_form(projector: LlavaUhdV2Projector, views: int, train: bool) -> str:
    """What the rule says."""
    if not reordering_pays(projector.window_attention, GRID, CELLS):
        return "plain"
    return "folded" if folding_pays(projector.window_attention, [CELLS] * views, train) else "unfolded"


def run(projector: LlavaUhdV2Projector, features: torch.Tensor, pixels: torch.Tensor, form: str, train: bool) -> None:
    rules = {"reordering_pays": lambda *_: form != "plain", "folding_pays": lambda *_, **__: form == "folded"}
    with patch.multiple(projector_module, **rules), torch.set_grad_enabled(train):
        [tokens] = projector([features.clone().requires_grad_(train)], [pixels])
        if train:
            projector.zero_grad()
            tokens.sum().backward()


def measure(projector: LlavaUhdV2Projector, views: int, repeats: int, train: bool) -> dict[str, Any]:
    """Seconds of every form, what the rule chooses, and its time over that of the fastest."""
    attention = projector.window_attention
    features = torch.randn(views, attention.num_channels, *GRID).to(attention.queries)
    pixels = torch.randn(views, 3, 14 * GRID[0], 14 * GRID[1]).to(attention.queries)
    sides = {form: partial(run, projector, features, pixels, form, train) for form in FORMS}
    seconds = side_by_side.alternate(sides, repeats)
    chosen = choose_form(projector, views, train)
    fastest = [min(times) for times in zip(*seconds.values())]
    return {
        "channels": attention.num_channels,
        "width": attention.queries.shape[-1],
        "views": views,
        **{form: side_by_side.spread(values) for form, values in seconds.items()},
        "chosen": chosen,
        "over the fastest": side_by_side.ratios(seconds[chosen], fastest),
    }


def main(
    views: Annotated[list[int], typer.Option(help="Views of a call; repeat.")] = [1, 4, 7],  # noqa: B006
    train: Annotated[bool, typer.Option("--train", help="Forward and backward.")] = False,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, typer.Option(help="Threads of the CPU.")] = 2,
    repeats: Annotated[int, typer.Option(help="Timed runs of each form.")] = 3,
    largest: Annotated[int, typer.Option(help="Leave out models with a wider text model.")] = SIZES[-1][1],
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.")] = None,
) -> None:
    """Every form of the projector, and the one that the rule chooses."""
    torch.set_num_threads(threads)
    results = []
    for channels, width in SIZES:
        if width <= largest:
            projector = build_projector(channels, width, getattr(torch, dtype))
            results += [measure(projector, count, repeats, train) for count in views]
    side_by_side.print_table(results, f"seconds of a {'training step' if train else 'forward pass'}, {dtype}")
    if json is not None:
        settings = {"machine": side_by_side.describe_machine(), "dtype": dtype, "train": train}
        side_by_side.write_json(json, settings | {"calls": results})


if __name__ == "__main__":
    typer.run(main)
