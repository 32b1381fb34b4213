# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Training: `train`, `merge`, `data check`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from .support import MaxSlices, errors_in_one_line


data = typer.Typer(no_args_is_help=True, help="Look at the data of a training.")


def train(
    stage: Annotated[
        str, typer.Argument(help="vdim, pretrain or sft, or the YAML file of another stage.", show_default=False)
    ],
    recipe: Annotated[str, typer.Argument(help="YAML file, or the name of a shipped recipe.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="key=value or section.key=value, instead of the recipe's.", show_default=False),
    ] = None,
) -> None:
    """Train a model or a part of it by a recipe; started again, it resumes from its last checkpoint.

    Without a GPU it trains on the CPU. Ctrl-C saves a checkpoint first.

    vdim pre-trains the up-sampler for a vision tower; pretrain (stage 1) trains the window attention on captions; sft
    (stage 2) fine-tunes on conversations, in full or by LoRA.
    """
    with errors_in_one_line():
        from ..training.families import train as run_stage

        try:
            path = run_stage(stage, recipe, settings or ())
        except KeyboardInterrupt as interrupt:
            leave_process_group()
            typer.echo(str(interrupt) or "Interrupted before the training began.", err=True)
            raise typer.Exit(getattr(interrupt, "exit_code", 130)) from interrupt
        leave_process_group()
        typer.echo(f"Saved: {path}")


def leave_process_group() -> None:
    """Ends the threads of gloo and NCCL: alive at the interpreter's exit, they sometimes abort the process."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def merge(
    adapter: Annotated[str, typer.Argument(help="Folder or Hub id of an adapter that `train` has written.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; new, or empty.")],
) -> None:
    """Write the checkpoint of an adapter with the adapter in its weights."""
    with errors_in_one_line():
        from ..training.adapters import merge_adapter

        merge_adapter(adapter, output)
        typer.echo(f"Saved: {output}")


@data.command()
def check(
    source: Annotated[
        str, typer.Argument(help=".json, .jsonl, .parquet or mixture file, folder, or data set of the Hub.")
    ],
    images: Annotated[
        str | None, typer.Option(help="Folder that the names of images are relative to.", show_default="the source's")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a data set.")] = "train",
    model: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id of a checkpoint, to count tokens with.", show_default="no counts"),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Longest sample, in tokens.", show_default="the model's own")
    ] = None,
    max_slices: MaxSlices = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that share the work; 0 for one alone.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the report there too, as JSON.", show_default=False)
    ] = None,
) -> None:
    """Read every sample and image once; exit with 1 if something would stop a training."""
    with errors_in_one_line():
        from transformers import AutoProcessor

        from ..data.check import check_data
        from ..data.mixtures import ConversationData
        from ..inference.checkpoints import check_checkpoint
        from ..utils.atomic import atomic_write

        processor = None
        if model is not None:
            check_checkpoint(model)
            processor = AutoProcessor.from_pretrained(model)
        settings = ConversationData(
            source=source, images=images, split=split, max_length=max_length, max_slices=max_slices
        )
        report = check_data(settings, processor, num_workers=workers)
        if json_file is not None:
            with atomic_write(json_file) as unfinished:
                text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False)
                unfinished.write_text(f"{text}\n", encoding="utf-8")
        for line in report.describe():
            typer.echo(line)
    if report.stops:
        raise typer.Exit(1)
