# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The `llava-uhd-v2` command. Its sub-commands parse their arguments, make one call and turn errors into one line."""

import json
from pathlib import Path
from typing import Annotated, NoReturn

import torch
import typer
from transformers import AutoModelForImageTextToText, AutoProcessor, TextStreamer
from transformers.image_utils import load_image

from .configuration_llava_uhd_v2 import LlavaUhdV2Config


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Ask LLaVA-UHD v2 models about high-resolution images."""


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    model: Annotated[Path, typer.Option(help="Folder of a converted checkpoint.", show_default=False)],
    image: Annotated[Path, typer.Option(help="Image file.", show_default=False)],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 512,
    max_slices: Annotated[
        int | None, typer.Option(min=1, help="Slices at most; the checkpoint's own limit if not given.")
    ] = None,
) -> None:
    """Answer a question about an image, word by word."""
    try:
        stream_answer(question, model, image, max_new_tokens=max_new_tokens, max_slices=max_slices)
    except (OSError, ValueError) as error:
        fail(error)


def fail(error: Exception) -> NoReturn:
    """Prints the first line of an error to stderr and exits with code 1."""
    message = str(error).strip().splitlines() or [type(error).__name__]
    typer.echo(f"Error: {message[0]}", err=True)
    raise typer.Exit(1)


def check_checkpoint(folder: Path) -> None:
    """
    Raises:
        ValueError: if the folder has no config.json, or one of another kind of model.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{folder} is no checkpoint folder: {config_file} is not there.")
    model_type = json.loads(config_file.read_text(encoding="utf-8")).get("model_type")
    if model_type != LlavaUhdV2Config.model_type:
        raise ValueError(
            f"{folder} holds a model of type `{model_type}`, not `{LlavaUhdV2Config.model_type}`. "
            "Convert a released checkpoint with convert/convert_checkpoint.py first."
        )


def stream_answer(
    question: str, checkpoint: Path, image_file: Path, *, max_new_tokens: int, max_slices: int | None
) -> None:
    """Prints the greedy answer to a question about an image while it is generated.

    The model runs on the accelerator where there is one, in the dtype of the checkpoint.

    Args:
        question: the user's message.
        checkpoint: folder of a converted checkpoint.
        image_file: an image in any format that Pillow reads.
        max_new_tokens: longest answer, in tokens.
        max_slices: largest number of slices; None is the checkpoint's own.

    Raises:
        OSError: if the image is missing or no image, or files of the checkpoint are missing.
        ValueError: if the folder holds no LLaVA-UHD v2 checkpoint.
    """
    check_checkpoint(checkpoint)
    if not image_file.is_file():
        raise FileNotFoundError(f"There is no image file {image_file}.")
    image = load_image(str(image_file))

    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype="auto")
    model.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")

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
