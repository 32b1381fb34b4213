# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The `llava-uhd-v2` command. Its sub-commands parse their arguments, make one call and turn errors into one line."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Ask LLaVA-UHD v2 models about high-resolution images."""


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    model: Annotated[str, typer.Option(help="Checkpoint folder, or its name on the Hub.", show_default=False)],
    image: Annotated[Path, typer.Option(help="Image file.", show_default=False)],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 512,
    max_slices: Annotated[
        int | None, typer.Option(min=1, help="Slices at most; the checkpoint's own limit if not given.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="For example cuda:1 or cpu; the accelerator if not given, else the CPU.")
    ] = None,
) -> None:
    """Answer a question about an image, printed word by word."""
    try:
        stream_answer(question, model, image, max_new_tokens=max_new_tokens, max_slices=max_slices, device=device)
    except (OSError, ValueError) as error:
        fail(error)


def fail(error: Exception) -> NoReturn:
    """Prints the first line of an error to stderr and exits with code 1."""
    message = str(error).strip().splitlines() or [type(error).__name__]
    typer.echo(f"Error: {message[0]}", err=True)
    raise typer.Exit(1)


def stream_answer(
    question: str,
    model_name: str,
    image_file: Path,
    *,
    max_new_tokens: int,
    max_slices: int | None,
    device: str | None,
) -> None:
    """Prints the greedy answer to a question about an image while it is generated.

    Args:
        question: the user's message.
        model_name: a checkpoint folder or a name on the Hub.
        image_file: an image in any format that Pillow reads.
        max_new_tokens: longest answer, in tokens.
        max_slices: largest number of slices; None is the checkpoint's own.
        device: a torch device; None is the accelerator where there is one.

    Raises:
        OSError: if the image or the checkpoint is missing or can't be read.
        ValueError: if the checkpoint is of another kind of model.
    """
    # The libraries take seconds to import, which `--help` need not wait for.
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor, TextStreamer
    from transformers.image_utils import load_image

    import llava_uhd_v2_hf  # noqa: F401 (registers the classes)

    if not image_file.is_file():
        raise FileNotFoundError(f"There is no image file {image_file}.")
    image = load_image(str(image_file))

    processor = AutoProcessor.from_pretrained(model_name)
    model = AutoModelForImageTextToText.from_pretrained(model_name, dtype="auto")
    model.to(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")

    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={} if max_slices is None else {"max_slices": max_slices},
    )
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    model.generate(**inputs.to(model.device), max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)
