# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Asking a model: `ask`, `demo`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from .support import AlphaOption, MaxNewTokens, MaxSlices, errors_in_one_line, set_alpha


def ask(
    model: Annotated[str, typer.Option(help="Folder or Hub id of a checkpoint or an adapter.", show_default=False)],
    image: Annotated[list[str], typer.Option(help="Images: files or http(s) URLs, also several.", show_default=False)],
    question: Annotated[
        str | None, typer.Argument(help="The question; without one, a chat on standard input.", show_default=False)
    ] = None,
    max_new_tokens: MaxNewTokens = 512,
    max_slices: MaxSlices = None,
    alpha: AlphaOption = None,
) -> None:
    """Answer questions about images, word by word."""
    with errors_in_one_line():
        from transformers import AutoProcessor, TextStreamer

        from ..inference.chat import Chat
        from ..inference.checkpoints import check_checkpoint
        from ..inference.loading import load_network, read_image

        check_checkpoint(model)
        processor = AutoProcessor.from_pretrained(model)
        set_alpha(processor.image_processor, alpha)
        pictures = [read_image(source, processor.image_processor) for source in image]
        chat = Chat(load_network(model), processor, pictures, max_slices)
        streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        for line in [question] if question is not None else read_questions():
            chat.ask(line, max_new_tokens=max_new_tokens, streamer=streamer)


def read_questions() -> Iterator[str]:
    """Lines of standard input, until an empty one or its end."""
    prompt = "> " if sys.stdin.isatty() else ""
    if prompt:
        typer.echo("Ask about the images. An empty line ends the chat.", err=True)
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if not line:
            return
        yield line


def demo(
    model: Annotated[
        list[str], typer.Option(help="Folder or Hub id of a checkpoint or an adapter; repeat it.", show_default=False)
    ],
    example: Annotated[
        list[Path] | None, typer.Option(help="Image file that the page offers, or several.", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port.", show_default="the first from 7860 that is free")
    ] = None,
) -> None:
    """Open a page, for this machine alone, where models answer questions about images and show how they see them."""
    with errors_in_one_line():
        from ..demo.page import serve

        serve(model, example or [], port, typer.echo)
