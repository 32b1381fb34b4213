# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Eight images in one batch against one by one: time to the first token, and tokens a second from then on.

    python benchmarks/generate.py [--repeats 3] [--dtype bfloat16] [--json FILE]
    python benchmarks/generate.py --profile      # where `generate` spends its time: one 672x1008 image, the eight

A tower of the shape of CLIP-ViT-L/14-336, the default projector and a Llama of 336 million parameters with a key head
for four query heads, all with random weights, on the GPU where there is one. The images are of eight shapes, the
prompts of eight lengths: a batch is padded to its longest, which is part of what it costs.
"""

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import side_by_side
import torch
import typer
from PIL import Image
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.generation.streamers import BaseStreamer

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration, LlavaUhdV2ImageProcessor
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan, num_image_tokens
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import TOWERS


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# (height, width) as photographs have them: two to six slices
IMAGE_SIZES = [(480, 640), (640, 480), (427, 640), (600, 600), (375, 500), (768, 1024), (1080, 1920), (672, 1008)]
PROFILED_SIZE = (672, 1008)
PAD_TOKEN, IMAGE_TOKEN = 0, 3
TEXT = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
}
TINY_TEXT = TEXT | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 30000}
TINY_VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}


class Clock(BaseStreamer):
    """Notes when `generate` hands over the prompt, and then every token."""

    def __init__(self):
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        side_by_side.wait_for_device()
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def build_model(tiny: bool, dtype: torch.dtype) -> LlavaUhdV2ForConditionalGeneration:
    """A model with random weights that never ends an answer by itself."""
    config = LlavaUhdV2Config(
        vision_config=TINY_VISION if tiny else None,
        text_config=TINY_TEXT if tiny else TEXT,
        image_token_id=IMAGE_TOKEN,
    )
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = LlavaUhdV2ForConditionalGeneration(config).eval().to(dtype)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD_TOKEN
    return model


def make_samples(model: LlavaUhdV2ForConditionalGeneration, sizes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """One image and a prompt around it a sample, as `generate` takes them."""
    resolution = model.config.vision_config.image_size
    processor, random = LlavaUhdV2ImageProcessor(slice_resolution=resolution), np.random.default_rng(0)
    samples = []
    for index, (height, width) in enumerate(sizes):
        size = (height * resolution // 336, width * resolution // 336, 3)  # as many views of a tiny model too
        image = Image.fromarray(random.integers(0, 256, size, dtype=np.uint8))
        sample = dict(processor(image, return_tensors="pt").to(DEVICE))
        plan = SlicePlan.from_image_size(sample["image_sizes"][0].tolist(), 14)
        query_grid, layout = model.config.projector_config.query_grid, model.config.token_layout
        tokens = num_image_tokens(plan, query_grid=query_grid, layout=layout)
        text = torch.from_numpy(random.integers(100, model.config.text_config.vocab_size, 16 + 4 * index))
        ids = torch.cat([text[:8], torch.full([tokens], model.config.image_token_id), text[8:]]).to(DEVICE)
        samples.append({"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None], **sample})
    return samples


def collate(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """One batch, its prompts padded on the left."""
    rows = {name: [sample[name][0] for sample in samples] for name in samples[0]}
    batch = {
        name: pad_sequence(rows[name], batch_first=True, padding_side="left")
        for name in ("input_ids", "attention_mask")
    }
    return batch | {
        "pixel_values": pad_sequence(rows["pixel_values"], batch_first=True),
        "image_sizes": torch.stack(rows["image_sizes"]),
    }


def generate(
    model: LlavaUhdV2ForConditionalGeneration, inputs: dict[str, torch.Tensor], new_tokens: int
) -> list[float]:
    """Seconds to the first token, and from there to the last."""
    clock = Clock()
    side_by_side.wait_for_device()
    start = time.perf_counter()
    model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, streamer=clock)
    return [clock.times[1] - start, clock.times[-1] - clock.times[1]]


def compare(model: LlavaUhdV2ForConditionalGeneration, repeats: int, new_tokens: int) -> dict[str, Any]:
    """Times the batch and its samples one by one.

    Returns:
        For "batch", "one by one" and the ratio of the two, the seconds to the (eight) first tokens and the tokens a
        second afterwards.
    """
    samples = make_samples(model, IMAGE_SIZES)
    measured: dict[str, list[np.ndarray]] = {"batch": [], "one by one": []}

    def run(name: str, inputs: list[dict[str, torch.Tensor]]) -> None:
        measured[name].append(np.sum([generate(model, each, new_tokens) for each in inputs], axis=0))

    side_by_side.alternate(
        {"batch": partial(run, "batch", [collate(samples)]), "one by one": partial(run, "one by one", samples)},
        repeats,
    )
    tokens = len(samples) * (new_tokens - 1)
    # the first run of each is not timed, it warms up
    first = {name: [float(run[0]) for run in runs[1:]] for name, runs in measured.items()}
    decode = {name: [float(tokens / run[1]) for run in runs[1:]] for name, runs in measured.items()}
    figures = {name: {"first token, s": first[name], "tokens/s": decode[name]} for name in measured}
    result = {
        name: {key: side_by_side.spread(values) for key, values in each.items()} for name, each in figures.items()
    }
    batch, alone = figures.values()
    return result | {"batch over one by one": {key: side_by_side.ratios(batch[key], alone[key]) for key in batch}}


def profile(model: LlavaUhdV2ForConditionalGeneration, repeats: int, new_tokens: int) -> dict[str, Any]:
    """Seconds of the parts of `generate`, for one image and for a batch of eight.

    Returns:
        For each of the two, the seconds of "tower", "projector", "text model", of the "rest" that is none of them, and
        of the "whole".
    """
    visual = model.model.visual
    tower = visual.vision_tower
    modules = {
        "tower": [*tower.embeddings.modules(), tower.pre_layrnorm, *TOWERS[tower.config.model_type].layers(tower)]
    }
    modules |= {"projector": [visual.projector], "text model": [model.model.language_model, model.lm_head]}
    places = {label: [(module, "forward") for module in parts] for label, parts in modules.items()}
    calls = {
        "one image": make_samples(model, [PROFILED_SIZE])[0],
        "eight images": collate(make_samples(model, IMAGE_SIZES)),
    }
    return {name: profile_call(model, inputs, places, repeats, new_tokens) for name, inputs in calls.items()}


def profile_call(
    model: LlavaUhdV2ForConditionalGeneration,
    inputs: dict[str, torch.Tensor],
    places: dict[str, list[tuple[nn.Module, str]]],
    repeats: int,
    new_tokens: int,
) -> dict[str, dict[str, float]]:
    generate(model, inputs, new_tokens)
    seconds: dict[str, list[float]] = {label: [] for label in (*places, "rest", "whole")}
    for _ in range(repeats):
        stopwatch = side_by_side.Stopwatch()
        with stopwatch.watch(places):
            whole = side_by_side.time_once(lambda: generate(model, inputs, new_tokens))
        parts = dict(stopwatch.seconds) | {"rest": whole - stopwatch.seconds.total(), "whole": whole}
        for label, value in parts.items():
            seconds[label].append(value)
    return {label: side_by_side.spread(values) for label, values in seconds.items()}


def print_profile(figures: dict[str, Any]) -> None:
    for name, parts in figures.items():
        rows = [
            {"part": label, "seconds": value, "% of the whole": 100 * value["median"] / parts["whole"]["median"]}
            for label, value in parts.items()
        ]
        side_by_side.print_table(rows, name)


def print_comparison(figures: dict[str, Any]) -> None:
    rows = [{"": name} | figures[name] for name in ("batch", "one by one")]
    rows.append({"": "batch over one by one"} | figures["batch over one by one"])
    side_by_side.print_table(rows)


def main(
    repeats: Annotated[int, typer.Option(help="Timed runs of each side.")] = 3,
    new_tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 33,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    profiled: Annotated[bool, typer.Option("--profile", help="Show where `generate` spends its time.")] = False,
    tiny: Annotated[bool, typer.Option(help="A model of toy size, to see that it works.")] = False,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.")] = None,
) -> None:
    """Eight images in one batch against one by one."""
    model = build_model(tiny, getattr(torch, dtype))
    figures = (profile if profiled else compare)(model, repeats, new_tokens)
    (print_profile if profiled else print_comparison)(figures)
    if json is not None:
        settings = {"dtype": dtype, "tiny": tiny, "new_tokens": new_tokens}
        side_by_side.write_json(json, {"machine": side_by_side.describe_machine()} | settings | figures)


if __name__ == "__main__":
    typer.run(main)
