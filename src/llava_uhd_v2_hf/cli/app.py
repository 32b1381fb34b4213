# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The `llava-uhd-v2` command. Its sub-commands parse their arguments, make one call and turn errors into one line."""

from pathlib import Path
from typing import Annotated

import typer

from ..utils.python_files import run_python_file
from .ask import ask, demo
from .conversion import assemble, convert, convert_lora, export_released, verify
from .hub import export, push
from .pictures import inspect, visualize
from .quiet import quietly
from .serving import serve
from .support import SeveralValues, errors_in_one_line
from .training import data, merge, train


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main(
    extension: Annotated[
        list[Path] | None,
        typer.Option(help="Python file that registers kinds of your own, run first; repeat it.", show_default=False),
    ] = None,
) -> None:
    """Ask LLaVA-UHD v2 models about high-resolution images."""
    with errors_in_one_line():
        for path in extension or ():
            run_python_file(path, importable=True)


for command in (
    *(ask, inspect, export, push, visualize, demo, serve, merge),
    *(convert, verify, assemble, export_released, convert_lora),
):
    app.command(cls=SeveralValues)(quietly(command))
app.command(no_args_is_help=True)(quietly(train))
app.add_typer(data, name="data")


__all__ = ["app"]
