# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Publishing a checkpoint: `export`, `push`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .support import errors_in_one_line


CheckpointFolder = Annotated[Path, typer.Argument(help="Folder of a converted or trained checkpoint.")]
WithCode = Annotated[bool, typer.Option("--with-code", help="Add the model's code, for trust_remote_code=True.")]
Card = Annotated[
    str | None,
    typer.Option(help="vicuna-7b, vicuna-13b, qwen2-7b or template.", show_default="README.md, or the template"),
]
License = Annotated[str | None, typer.Option(help="Licence id of the Hub for the card.", show_default=False)]
BaseModel = Annotated[
    list[str] | None, typer.Option(help="Hub id of a model it was made from; repeat.", show_default=False)
]
Dataset = Annotated[list[str] | None, typer.Option(help="Hub id of its training data; repeat.", show_default=False)]
Include = Annotated[list[str] | None, typer.Option(help="Add this file of FOLDER; repeat.", show_default=False)]


def export(
    folder: CheckpointFolder,
    out: Annotated[Path | None, typer.Option(help="Write a copy there.", show_default="the folder itself")] = None,
    with_code: WithCode = False,
    repo_id: Annotated[
        str | None, typer.Option(help="Name that the card's commands use.", show_default="the folder's")
    ] = None,
    card: Card = None,
    license: License = None,
    base_model: BaseModel = None,
    dataset: Dataset = None,
    include: Include = None,
) -> None:
    """Check that a checkpoint is complete, and add its card and, if asked, its code."""
    with errors_in_one_line():
        from ..hub.card import CardRequest
        from ..hub.export import export_checkpoint

        request = CardRequest(card, license, base_model or (), dataset or ())
        hints = export_checkpoint(folder, out, request, with_code=with_code, repo_id=repo_id, include=include or ())
        typer.echo(f"Complete: {out or folder}")
        for hint in hints:
            typer.echo(hint, err=True)


def push(
    folder: CheckpointFolder,
    repo_id: Annotated[str, typer.Argument(help="Repository of the Hub, org/name; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    with_code: WithCode = False,
    max_shard_size: Annotated[
        str | None, typer.Option(help='Largest weight file: "5GB".', show_default="as they are")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list everything, send nothing.")] = False,
    card: Card = None,
    license: License = None,
    base_model: BaseModel = None,
    dataset: Dataset = None,
    include: Include = None,
) -> None:
    """Upload a checkpoint to the Hub; started again after an interruption, it continues."""
    with errors_in_one_line():
        from ..hub.card import CardRequest
        from ..hub.push import push_checkpoint

        url = push_checkpoint(
            folder,
            repo_id,
            CardRequest(card, license, base_model or (), dataset or ()),
            private=private,
            with_code=with_code,
            max_shard_size=max_shard_size,
            include=include or (),
            ask=_ask if sys.stdin.isatty() else None,
            dry_run=dry_run,
            report=typer.echo,
        )
        typer.echo(f"Pushed: {url}" if url else "Nothing was sent.")


def _ask(name: str) -> bool:
    return typer.confirm(f"README.md links to {name}, which is no part of a checkpoint. Publish it?")
