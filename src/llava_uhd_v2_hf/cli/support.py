# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What the commands share: options, and errors in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from ..utils.errors import describe_error, expected_errors


MaxSlices = Annotated[
    int | None, typer.Option(min=1, help="Slices of an image at most.", show_default="the model's own")
]
AlphaOption = Annotated[
    Literal["drop", "white"] | None,
    typer.Option(help="Transparency: drop it, or blend with white.", show_default="the model's own"),
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


def set_alpha(image_processor: Any, alpha: str | None) -> None:
    """Overrides what the image processor does with transparency, if that is asked for."""
    image_processor.alpha = alpha or image_processor.alpha


class SeveralValues(TyperCommand):
    """A command whose repeatable options take several values after one name, as a shell's `*.png` makes them.

    The files and URLs that follow a value belong to the same option.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Writes the name of a repeatable option before each of its values."""
        names = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spread: list[str] = []
        name, expects_value = None, False  # the option whose values may follow; whether it has none yet
        for arg in args:
            option, equals, _ = arg.partition("=")
            if expects_value:
                expects_value = False
            elif option in names:
                name, expects_value = option, not equals
            elif name is not None and (os.path.isfile(arg) or arg.lower().startswith(("http://", "https://"))):
                spread.append(name)
            else:
                name = None
            spread.append(arg)
        return super().parse_args(ctx, spread)
