# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Steps of full fine-tuning, LoRA and QLoRA as they run and in another way: speed and memory.

    pip install '.[train,qlora]'
    python benchmarks/training.py [--against plain] [--repeats 3] [--samples 1] [--json FILE]

The other way is the projector in the plain order; or, of LoRA alone, a backward pass through the frozen tower.

The recipes `sft-vicuna-7b`, `sft-lora` and `sft-qlora` train a mid-size model with random weights, by transformers'
`Trainer`, on the GPU where there is one: a projector of the released size for its width, a tower of CLIP-ViT-L's width
with 6 layers, and a Llama of 4 layers. A sample is an image of two slices and an overview and 16 tokens of text. The
sides alternate step by step in one training. Memory is the peak of a step in another process, everything included:
weights, gradients and the optimiser's state; on a CPU glibc is told there to give back what is freed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import side_by_side
import torch
import typer
from generate import IMAGE_TOKEN, TEXT, TINY_TEXT, TINY_VISION, collate, make_samples
from projector import GIVE_BACK
from transformers import Trainer, TrainerCallback
from vision_memory import DEVICE, read_peak, reset_peak

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration
from llava_uhd_v2_hf.training.parameter_groups import plan_parts
from llava_uhd_v2_hf.training.recipes import read_recipe
from llava_uhd_v2_hf.training.stage import read_stage
from llava_uhd_v2_hf.training.stages.finetune.recipe import FinetuneRecipe
from llava_uhd_v2_hf.training.stages.finetune.run import load_model, prepare_arguments


RECIPES = {"full": "sft-vicuna-7b", "LoRA": "sft-lora", "QLoRA": "sft-qlora"}


class Against(StrEnum):
    """The other way of a step."""

    plain = "plain"
    differentiated = "differentiated"


TRAININGS = {Against.plain: list(RECIPES), Against.differentiated: ["LoRA"]}
AS_IT_RUNS = "as it runs"
IMAGE_SIZE = (336, 672)
VISION = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, "num_hidden_layers": 6}
VISION |= {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
MID_TEXT = TEXT | {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 4, "num_attention_heads": 32}


class Alternate(TrainerCallback):
    """Runs every other step in the other way, and notes seconds and peak memory of each."""

    def __init__(self, switch: Callable[[bool], None]):
        self.switch = switch
        self.figures: list[dict[str, float]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.switch(state.global_step % 2 == 1)
        reset_peak()
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        side_by_side.wait_for_device()
        self.figures.append({"seconds": time.perf_counter() - self.start, "bytes": read_peak()})


def other_way(model: torch.nn.Module, against: Against) -> Callable[[bool], None]:
    """Returns a function that switches a model to the other way, and back."""
    visual = (model.get_base_model() if hasattr(model, "get_base_model") else model).model.visual
    forward, embed_views = visual.projector.forward, visual.embed_views

    def run_in_order(plain: bool) -> None:
        visual.projector.forward = lambda *tensors, **_: forward(*tensors, plain=plain)

    def differentiate(tower: bool) -> None:
        # the hooks of activation checkpointing make the embeddings require gradients
        visual.embed_views = (lambda views: visual.tower.embed(visual.vision_tower, views)) if tower else embed_views

    return {Against.plain: run_in_order, Against.differentiated: differentiate}[against]


def write_model(folder: Path, tiny: bool) -> None:
    config = LlavaUhdV2Config(
        vision_config=TINY_VISION if tiny else VISION,
        text_config=TINY_TEXT | {"hidden_size": 128} if tiny else MID_TEXT,
        image_token_id=IMAGE_TOKEN,
    )
    torch.manual_seed(0)
    LlavaUhdV2ForConditionalGeneration(config).save_pretrained(folder)


def measure_steps(kind: str, model: str, samples: int, steps: int, against: Against) -> list[dict[str, float]]:
    """Figures of each step of a training, the two ways in turns."""
    settings = [f"model={model}", f"batch_size={samples}", f"training.per_device_train_batch_size={samples}"]
    settings += [f"training.output_dir={model}", f"training.max_steps={steps}", "training.save_strategy=no"]
    settings += ["training.report_to=none", "training.disable_tqdm=true", "training.dataloader_num_workers=0"]
    settings += ["training.train_sampling_strategy=random", f"training.bf16={str(DEVICE == 'cuda').lower()}"]
    recipe = read_recipe(FinetuneRecipe, RECIPES[kind], settings, stage=read_stage("sft"))
    args = prepare_arguments(recipe)
    network = load_model(recipe, plan_parts(recipe.parts, args), args)
    batch = collate(make_samples(network, [IMAGE_SIZE] * samples))
    batch["labels"] = batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE_TOKEN, -100)
    clock = Alternate(other_way(network, against))
    data = [{"sample": 0}] * samples * steps  # stands for the batch
    Trainer(network, args, train_dataset=data, data_collator=lambda _: dict(batch), callbacks=[clock]).train()
    return clock.figures


def run_process(
    figure: str, kind: str, model: str, samples: int, steps: int, against: Against
) -> dict[str, list[float]]:
    """One figure of every step but the first of each way, from a process of its own."""
    command = [sys.executable, __file__, "--model", model, "--kind", kind, "--samples", samples, "--repeats", steps]
    command += ["--against", against]
    environment = os.environ | (GIVE_BACK if figure == "bytes" else {})
    output = subprocess.run(map(str, command), env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures = [step[figure] for step in json.loads(output.splitlines()[-1])]
    return {side: figures[number + 2 :: 2] for number, side in enumerate((AS_IT_RUNS, against.value))}


def describe(
    kind: str, seconds: dict[str, list[float]], peaks: dict[str, list[float]], samples: int
) -> dict[str, Any]:
    row: dict[str, Any] = {"training": kind}
    for side, values in seconds.items():
        row[f"samples/s, {side}"] = side_by_side.spread([samples / value for value in values])
    ours, others = seconds.values()
    row["samples/s, ratio"] = side_by_side.ratios(others, ours)
    for side, values in peaks.items():
        row[f"peak GB, {side}"] = side_by_side.spread([value / 1e9 for value in values])
    return row


def main(
    against: Annotated[Against, typer.Option(help="The other way of a step.")] = Against.plain,
    samples: Annotated[int, typer.Option(min=1, help="Samples a step.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps of each way.")] = 3,
    threads: Annotated[int, typer.Option(help="Threads of the CPU.")] = 2,
    tiny: Annotated[bool, typer.Option("--tiny", help="A tiny model.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="File to write the figures to.")] = None,
    model: Annotated[str, typer.Option(hidden=True)] = "",
    kind: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Steps of full fine-tuning, LoRA and QLoRA, as they run against another way."""
    torch.set_num_threads(threads)
    if kind:
        print(json.dumps(measure_steps(kind, model, samples, 2 + 2 * repeats, against)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), tiny)
        for name in TRAININGS[against]:
            seconds = run_process("seconds", name, folder, samples, repeats, against)
            rows.append(describe(name, seconds, run_process("bytes", name, folder, samples, 1, against), samples))
    side_by_side.print_table(rows, f"{samples} sample(s) a step")
    if json_file is not None:
        settings = {"machine": side_by_side.describe_machine(), "samples": samples}
        side_by_side.write_json(json_file, settings | {"trainings": rows})


if __name__ == "__main__":
    typer.run(main)
