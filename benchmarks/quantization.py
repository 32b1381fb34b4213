# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Quantised models on a CPU against float32: size, speed, and what a trained model loses by it.

    PYTHONPATH=.:.venv/torchao python benchmarks/quantization.py [--repeats 3] [--json FILE]
    PYTHONPATH=.:.venv/torchao python benchmarks/quantization.py --hidden-size 1024 --layers 4  # size, speed

The first trains a tiny model on pictures (four minutes on one core), and asks it 128 questions about 32 others. The
second makes a text model of a size at which the weights count, with random weights. All models are loaded together,
and their answers of `--new-tokens` tokens to the same image are timed in turns; ratios are taken repeat by repeat.
"""

import math
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import generate
import side_by_side
import torch
import typer
from transformers import AutoProcessor, PreTrainedModel

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration
from llava_uhd_v2_hf.data.collation import ConversationCollator
from llava_uhd_v2_hf.training.evaluation import generate_answers, is_exact
from tests.support.finetune_runs import dataset_of
from tests.support.quantized_models import (
    EVERY_METHOD,
    METHODS,
    Subject,
    bytes_in_memory,
    bytes_on_disk,
    layer_types,
    load,
    train_subject,
)


IMAGE_SIZE = (480, 640)
BATCH = 16
TABLES = {
    "what it costs": ("exact match", "changed answers", "change of logits", "perplexity"),
    "what it gains": (
        "MB in memory",
        "MB on disk",
        "tokens/s",
        "tokens/s over float32's",
        "first token over float32's",
    ),
}


class Judgement(NamedTuple):
    """What a model makes of held-out questions.

    Args:
        answers: that it generates.
        exact: the share of them that are right.
        logits: (tokens of the right answers, vocabulary), of the model that is given these answers.
        perplexity: of the right answers.
    """

    answers: list[str]
    exact: float
    logits: torch.Tensor
    perplexity: float


@torch.no_grad()
def judge(model: PreTrainedModel, subject: Subject) -> Judgement:
    """Asks a model the subject's held-out questions."""
    processor, dataset = AutoProcessor.from_pretrained(subject.checkpoint), dataset_of(subject.held_out)
    collate, answers, logits, labels = ConversationCollator(processor), [], [], []
    for start in range(0, len(dataset), BATCH):
        samples = [dataset[number] for number in range(start, min(start + BATCH, len(dataset)))]
        answers += generate_answers(model, processor, samples, max_new_tokens=12)
        batch = collate(samples)
        following = batch.pop("labels")[:, 1:]
        logits.append(model(**batch).logits[:, :-1][following != -100])
        labels.append(following[following != -100])
    right = [dataset[number]["messages"][-1]["content"] for number in range(len(dataset))]
    every = torch.cat(logits)
    return Judgement(
        answers,
        sum(map(is_exact, answers, right)) / len(right),
        every,
        math.exp(torch.nn.functional.cross_entropy(every, torch.cat(labels))),
    )


def compare(judged: Judgement, full: Judgement) -> dict[str, float]:
    """What a judgement lost against that of float32; the logits' mean absolute change relative to their mean size."""
    return {
        "exact match": judged.exact,
        "changed answers": sum(one != other for one, other in zip(judged.answers, full.answers, strict=True)),
        "change of logits": ((judged.logits - full.logits).abs().mean() / full.logits.abs().mean()).item(),
        "perplexity": judged.perplexity,
    }


def reload(folder: Path, model: PreTrainedModel, judged: Judgement, subject: Subject) -> dict[str, Any]:
    """Whether a saved model is the one that was saved."""
    saved = load(folder)
    again = judge(saved, subject)
    return {
        "same layers": layer_types(saved) == layer_types(model),
        "same answers": again.answers == judged.answers,
        "largest change of logits": (again.logits - judged.logits).abs().max().item(),
    }


def measure_models(checkpoint: Path, folder: Path, subject: Subject | None) -> tuple[dict, dict[str, PreTrainedModel]]:
    """Sizes, and losses if there is a subject, of the model in float32, in bfloat16 and by every method."""
    ways: dict[str, dict[str, Any]] = {"float32": {"dtype": torch.float32}, "bfloat16": {"dtype": torch.bfloat16}}
    figures, models, full = {}, {}, None
    for name in [*ways, *(METHODS if subject is None else EVERY_METHOD)]:
        options = ways.get(name) or {"quantization_config": EVERY_METHOD[name].make_config()}
        models[name] = model = load(checkpoint, **options)
        # before it runs: afterwards bitsandbytes 0.50 saves other numbers
        model.save_pretrained(folder / name)
        figures[name] = {
            "layers": layer_types(model),
            "MB in memory": bytes_in_memory(model) / 1e6,
            "MB on disk": bytes_on_disk(folder / name) / 1e6,
        }
        if subject is not None:
            judged = judge(model, subject)
            full = full or judged
            figures[name] |= compare(judged, full)
            figures[name]["saved and loaded"] = reload(folder / name, model, judged, subject)
    return figures, models


def measure_speed(models: dict[str, PreTrainedModel], repeats: int, new_tokens: int) -> dict[str, dict[str, Any]]:
    """Tokens a second after the first of one image's answer, seconds to the first, and their ratios to float32's."""
    [sample] = generate.make_samples(models["float32"], [IMAGE_SIZE])
    measured: dict[str, list[list[float]]] = {name: [] for name in models}

    def run(name: str) -> None:
        measured[name].append(generate.generate(models[name], sample, new_tokens))

    for model in models.values():
        model.generation_config.eos_token_id = None
    side_by_side.alternate({name: partial(run, name) for name in models}, repeats)
    # the first run of each is not timed, it warms up
    first = {name: [run[0] for run in runs[1:]] for name, runs in measured.items()}
    speed = {name: [(new_tokens - 1) / run[1] for run in runs[1:]] for name, runs in measured.items()}
    return {
        name: {
            "tokens/s": side_by_side.spread(speed[name]),
            "tokens/s over float32's": side_by_side.ratios(speed[name], speed["float32"]),
            "first token, s": side_by_side.spread(first[name]),
            "first token over float32's": side_by_side.ratios(first[name], first["float32"]),
        }
        for name in models
    }


def write_random(folder: Path, hidden_size: int, layers: int) -> Path:
    """A checkpoint with a text model of this size and a tiny tower, all weights random."""
    text = generate.TEXT | {
        "hidden_size": hidden_size,
        "intermediate_size": 11 * hidden_size // 4,
        "num_hidden_layers": layers,
        "vocab_size": 4096,  # the head, which stays in float32, counts as little as in a large model
    }
    config = LlavaUhdV2Config(
        vision_config=generate.TINY_VISION,
        text_config=text,
        image_token_id=generate.IMAGE_TOKEN,
        row_separator_id=13,
        slice_separator_id=44,
    )
    torch.manual_seed(0)
    model = LlavaUhdV2ForConditionalGeneration(config)
    model.generation_config.pad_token_id = generate.PAD_TOKEN
    model.save_pretrained(folder)
    return folder


def print_figures(figures: dict[str, dict[str, Any]]) -> None:
    for title, columns in TABLES.items():
        rows = [{"": name} | {key: each[key] for key in columns if key in each} for name, each in figures.items()]
        if len(rows[0]) > 1:
            side_by_side.print_table(rows, title)


def main(
    hidden_size: Annotated[int | None, typer.Option(help="Of a model with random weights, not a trained one.")] = None,
    layers: Annotated[int, typer.Option(help="Of that model.")] = 4,
    repeats: Annotated[int, typer.Option(help="Timed runs of each model.")] = 3,
    new_tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 33,
    threads: Annotated[int, typer.Option(help="PyTorch's.")] = 1,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.")] = None,
) -> None:
    """Quantised models on a CPU against float32."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subject = train_subject(folder) if hidden_size is None else None
        checkpoint = subject.checkpoint if subject else write_random(folder / "random", hidden_size, layers)
        figures, models = measure_models(checkpoint, folder, subject)
        for name, speed in measure_speed(models, repeats, new_tokens).items():
            figures[name] |= speed
    print_figures(figures)
    if json is not None:
        clients = {name: version(name) for name in ("bitsandbytes", "torchao")}
        settings = {"hidden_size": hidden_size, "layers": layers, "new_tokens": new_tokens}
        side_by_side.write_json(
            json, {"machine": side_by_side.describe_machine() | clients} | settings | {"methods": figures}
        )


if __name__ == "__main__":
    typer.run(main)
