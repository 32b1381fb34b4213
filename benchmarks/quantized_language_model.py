# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a trained language model, SmolLM2-135M-Instruct, loses when the composed model is quantised: perplexity.

PYTHONPATH=.:.venv/torchao python benchmarks/quantized_language_model.py [--json FILE]
"""

import json as json_module
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from side_by_side import print_table
from transformers import AutoTokenizer

from tests.support.quantized_models import BY_BITSANDBYTES, EVERY_METHOD, bytes_in_memory, load
from tests.support.smollm2 import perplexity, write_composed


def measure(checkpoint: Path, methods: dict) -> dict[str, dict[str, float]]:
    """Returns perplexity, and bytes of the weights, in float32, in bfloat16 and by each method."""
    ways = {"float32": {"dtype": torch.float32}, "bfloat16": {"dtype": torch.bfloat16}}
    ways |= {name: {"quantization_config": method.make_config()} for name, method in methods.items()}
    tokenizer, figures = AutoTokenizer.from_pretrained(checkpoint), {}
    for name, options in ways.items():
        model = load(checkpoint, **options)
        size = bytes_in_memory(model) / 1e6  # before it runs: bitsandbytes repacks weights
        figures[name] = {"MB in memory": size, "perplexity": perplexity(model, tokenizer)}
        figures[name]["over float32's"] = figures[name]["perplexity"] / figures["float32"]["perplexity"]
    return figures


def main(
    bitsandbytes_only: Annotated[bool, typer.Option(help="Without torchao.")] = False,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.")] = None,
) -> None:
    """Perplexity of a quantised language model."""
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(write_composed(Path(temporary)), BY_BITSANDBYTES if bitsandbytes_only else EVERY_METHOD)
    print_table([{"": name} | each for name, each in figures.items()], "SmolLM2-135M-Instruct")
    if json is not None:
        json.write_text(json_module.dumps(figures, indent=2))


if __name__ == "__main__":
    typer.run(main)
