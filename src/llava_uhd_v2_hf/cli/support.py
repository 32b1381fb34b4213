# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What the commands share: options, and errors in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from ..utils.errors import describe_error, expected_errors


MaxSlices = Annotated[
    int | None, typer.Option(min=1, help="Slices of an image at most.", show_default="the model's own")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Prints the first line of an expected error to stderr and exits with code 1."""
    try:
        yield
    except expected_errors() as error:
        typer.echo(f"Error: {describe_error(error)}", err=True)
        raise typer.Exit(1) from error
