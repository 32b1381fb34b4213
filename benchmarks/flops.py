# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Counts the FLOPs of every part for one image: vision tower, projector in both orders, the text model's prefill.

    python benchmarks/flops.py [--height 672] [--width 1008] [--llm all] [--json FILE]

The model's own modules run on tensors without data, and PyTorch counts their matrix products, convolutions and
attention: 2 FLOPs a multiply-add, attention in full, also above the diagonal. Not counted is what works element by
element: activations, norms, softmax, and in the plain order of the projector also the 7x7 neighbourhoods of
up-sampling (1.2 GFLOPs for a view of 24x24 patches, against 1224 that are counted).
"""

import contextlib
import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import Mock, patch

import side_by_side
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, LlamaConfig, Qwen2Config

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan, num_image_tokens, plan_slices
from llava_uhd_v2_hf.model.projectors_hiwin_llava_uhd_v2 import LlavaUhdV2Projector


# The shapes of the language models of the released checkpoints.
TEXT_CONFIGS = {
    "vicuna-7b": LlamaConfig(),
    "vicuna-13b": LlamaConfig(
        hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40, num_key_value_heads=40
    ),
    "qwen2-7b": Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    ),
}
# Their levels and token layouts, where not the default.
RELEASED = {name: {"levels": [0, 2], "token_layout": "sequential"} for name in ("vicuna-13b", "qwen2-7b")}
# Paper, table 1: an image of (height, width) (672, 1008).
PAPER_SIZE = (672, 1008)
PAPER_TFLOPS = {"vicuna-7b": 17.5, "vicuna-13b": 26.4, "qwen2-7b": 14.3}


def build_config(llm: str) -> LlavaUhdV2Config:
    """The configuration of a released model, or the default one with the text model of a folder or config.json.

    Raises:
        ValueError: if `llm` is neither.
    """
    released = RELEASED.get(llm, {"levels": [0, 1, 2], "token_layout": "spatial"})
    if llm in TEXT_CONFIGS:
        text = copy.deepcopy(TEXT_CONFIGS[llm])
    elif Path(llm).exists():
        text = AutoConfig.from_pretrained(llm)
    else:
        raise ValueError(f"`llm`={llm!r} is no file or folder; give one, or {', '.join(TEXT_CONFIGS)}, or all.")
    text.vocab_size = max(text.vocab_size, 32001)  # the image token's row
    return LlavaUhdV2Config(
        text_config=text,
        projector_config={"levels": released["levels"]},
        token_layout=released["token_layout"],
    )


def build_projector(llm: str) -> LlavaUhdV2Projector:
    """The projector of [`build_config`], without data."""
    with torch.device("meta"):
        return LlavaUhdV2Projector(build_config(llm)).eval().requires_grad_(False)


def count(run: Callable[[], Any]) -> tuple[int, dict[str, int]]:
    """FLOPs of a call, and of every module in it by its name, such as "LlavaUhdV2Projector.upsampler"."""
    # there is no autocast on the meta device, where tensors have no data
    without_autocast = patch.multiple(
        torch, autocast=Mock(return_value=contextlib.nullcontext()), is_autocast_enabled=Mock(return_value=False)
    )
    with without_autocast, FlopCounterMode(display=False) as counter:
        run()
    modules = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    return counter.get_total_flops(), modules


def count_parts(config: LlavaUhdV2Config, plan: SlicePlan, text_tokens: int) -> dict[str, int]:
    """FLOPs of every part for one image.

    Args:
        config: of the model.
        plan: how the image is cut.
        text_tokens: tokens of the prompt beside those of the image.

    Returns:
        "tower"; "plain": the projector in the order of the paper, and "plain, ...", its parts; "projector": as it
        runs; "text": the language model's prefill, with the logits of the last token.
    """
    config._attn_implementation = "eager"  # the matrix products of attention one by one, on any device
    patch_size, channels = config.vision_config.patch_size, config.vision_config.hidden_size
    views, maps = [], []
    for (height, width), number in Counter(plan.view_sizes).items():
        views.append(torch.empty(number, 3, height, width, device="meta"))
        maps.append(torch.empty(number, channels, height // patch_size, width // patch_size, device="meta"))
    tokens = num_image_tokens(plan, query_grid=config.projector_config.query_grid, layout=config.token_layout)
    prompt = torch.empty(1, tokens + text_tokens, config.text_config.hidden_size, device="meta")
    with torch.device("meta"):
        model = LlavaUhdV2ForConditionalGeneration(config).eval().requires_grad_(False)

    visual = model.model.visual
    parts = {"tower": count(lambda: [visual.encode_views(group, one_batch=True) for group in views])[0]}
    parts["plain"], modules = count(lambda: visual.projector(maps, views, plain=True))
    parts |= split_projector(parts["plain"], modules)
    # tensors without data are counted as the ordinary weights that they stand for
    with patch.object(LlavaUhdV2Projector, "can_reorder", return_value=True):
        count(lambda: visual.projector(maps, views))  # makes tables that are kept
        parts["projector"] = count(lambda: visual.projector(maps, views))[0]
    mask = torch.empty(1, 1, prompt.shape[1], prompt.shape[1], device="meta")  # else transformers looks into its data
    arguments = {"inputs_embeds": prompt, "attention_mask": mask, "use_cache": False, "logits_to_keep": 1}
    parts["text"] = count(lambda: model(**arguments))[0]
    return parts


def count_view(projector: LlavaUhdV2Projector, views: int) -> dict[str, float]:
    """FLOPs of the projector a view of 24x24 patches, in a call with so many views.

    Args:
        projector: on the meta device, without gradients.
        views: of the call.

    Returns:
        "plain"; "cold": as it runs, products of the weights included; "warm": with these made beforehand.
    """
    attention, side = projector.window_attention, 24
    maps = [attention.queries.new_empty(views, attention.num_channels, side, side)]
    pixels = [attention.queries.new_empty(views, 3, 14 * side, 14 * side)]
    with patch.object(LlavaUhdV2Projector, "can_reorder", return_value=True):
        count(lambda: projector(maps, pixels))  # makes tables that are kept
        cold = count(lambda: projector(maps, pixels))[0]
        with patch("llava_uhd_v2_hf.model.projectors_hiwin_llava_uhd_v2.folding_pays", return_value=True):
            warm = count(lambda: projector(maps, pixels))[0] - count(lambda: projector.multiply_weights([]))[0]
    plain = count(lambda: projector(maps, pixels, plain=True))[0]
    return {"plain": plain / views, "cold": cold / views, "warm": warm / views}


def split_projector(total: int, modules: dict[str, int]) -> dict[str, int]:
    """The parts of the projector in the plain order.

    Args:
        total: its FLOPs.
        modules: FLOPs of its modules, see [`count`].
    """

    def of(*names: str) -> int:
        prefix = "LlavaUhdV2Projector."
        return sum(modules.get(prefix + name, 0) for name in names)

    attention = "window_attention."
    levels = {name.rpartition(".")[2] for name in modules if ".level_projections." in name}
    parts = {
        "plain, up-sampling": of("upsampler"),
        "plain, projection of levels": of(*(f"{attention}level_projections.{level}" for level in levels)),
        "plain, keys and values": of(f"{attention}key", f"{attention}value"),
        "plain, output": of(*(f"{attention}{name}" for name in ("output", "mix", "projection"))),
    }
    return parts | {"plain, pooling, queries and scores": total - sum(parts.values())}


def rows_of(counted: dict[str, dict[str, int]], size: tuple[int, int]) -> list[dict[str, Any]]:
    """The table: a part a row, a language model a column, in TFLOPs."""
    first = next(iter(counted.values()))
    names = {name: f"projector in the {name}" if name.startswith("plain,") else name for name in first}
    names |= {
        "tower": "vision tower",
        "plain": "projector in the plain order",
        "projector": "projector as it runs",
        "text": "text model, prefill",
    }
    names |= {name: f"    {name.removeprefix('plain, ')}" for name in first if name.startswith("plain, ")}
    rows = [
        {"TFLOPs": label} | {llm: parts[name] / 1e12 for llm, parts in counted.items()}
        for name, label in names.items()
    ]
    for label, projector in (("whole, plain order", "plain"), ("whole, as it runs", "projector")):
        whole = {llm: (parts["tower"] + parts[projector] + parts["text"]) / 1e12 for llm, parts in counted.items()}
        rows.append({"TFLOPs": label} | whole)
    if size == PAPER_SIZE:
        rows.append({"TFLOPs": "whole, the paper's figure"} | {llm: PAPER_TFLOPS.get(llm, "") for llm in counted})
    return rows


def main(
    height: Annotated[int, typer.Option(help="Of the image, in pixels.")] = PAPER_SIZE[0],
    width: Annotated[int, typer.Option(help="Of the image, in pixels.")] = PAPER_SIZE[1],
    llm: Annotated[str, typer.Option(help="vicuna-7b, vicuna-13b, qwen2-7b, all, or a text model's folder.")] = "all",
    max_slices: Annotated[int, typer.Option(help="Largest number of slices.")] = 6,
    text_tokens: Annotated[int, typer.Option(help="Tokens of the prompt beside those of the image.")] = 31,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.")] = None,
) -> None:
    """Counts the FLOPs of every part for one image."""
    plan = plan_slices(height, width, max_slices=max_slices, slice_resolution=336, patch_size=14)
    llms = TEXT_CONFIGS if llm == "all" else [llm]
    counted = {name: count_parts(build_config(name), plan, text_tokens) for name in llms}
    side_by_side.print_table(rows_of(counted, (height, width)), f"{height}x{width}, {plan.num_slices} slices")
    views = {name: count_view(build_projector(name), len(plan.view_sizes)) for name in llms}
    names = {"plain": "plain order", "cold": "as it runs", "warm": "with weights multiplied beforehand"}
    rows = [
        {"GFLOPs": label} | {llm: figures[side] / 1e9 for llm, figures in views.items()}
        for side, label in names.items()
    ]
    side_by_side.print_table(rows, f"the projector, a view of 24x24 patches, {len(plan.view_sizes)} a call")
    if json is not None:
        side_by_side.write_json(
            json,
            {"height": height, "width": width, "plan": plan.to_image_size(), "text_tokens": text_tokens}
            | {"flops": counted, "flops_a_view": views},
        )


if __name__ == "__main__":
    typer.run(main)
