# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The `llava-uhd-v2` command. Its sub-commands parse their arguments, make one call and turn errors into one line."""

import typer

from .ask import ask, demo
from .conversion import assemble, convert, convert_lora, export_released, verify
from .hub import export, push
from .pictures import inspect, visualize
from .serving import serve
from .training import data, merge, train


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Ask LLaVA-UHD v2 models about high-resolution images."""


for command in (
    *(ask, inspect, export, push, visualize, demo, serve, merge),
    *(convert, verify, assemble, export_released, convert_lora),
):
    app.command()(command)
app.command(no_args_is_help=True)(train)
app.add_typer(data, name="data")


__all__ = ["app"]
