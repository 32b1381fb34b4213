# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The `llava-uhd-v2` command. Its sub-commands parse their arguments, make one call and turn errors into one line."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from transformers import AutoProcessor, TextStreamer

from ..hub.card import CardRequest
from ..hub.publishing import export_checkpoint, push_checkpoint
from ..inference.chat import Chat
from ..inference.checkpoints import check_checkpoint
from ..inference.cost import describe_bytes, estimate_cost
from ..inference.inspection import inspect_image
from ..inference.loading import EXPECTED_ERRORS, describe_error, load_image_settings, load_network, read_image
from ..pictures.slices import check_suffix, draw_inspection, save_picture
from ..serve.limits import Limits
from ..utils.atomic import written_whole


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
MaxSlices = Annotated[
    int | None, typer.Option(min=1, help="Slices of an image at most.", show_default="the model's own")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]

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


@app.callback()
def main() -> None:
    """Ask LLaVA-UHD v2 models about high-resolution images."""


@app.command()
def ask(
    model: Annotated[str, typer.Option(help="Folder or Hub id of a checkpoint or an adapter.", show_default=False)],
    image: Annotated[list[Path], typer.Option(help="Image file; repeat it for several.", show_default=False)],
    question: Annotated[
        str | None, typer.Argument(help="The question; without one, a chat on standard input.", show_default=False)
    ] = None,
    max_new_tokens: MaxNewTokens = 512,
    max_slices: MaxSlices = None,
) -> None:
    """Answer questions about images, word by word."""
    with errors_in_one_line():
        check_checkpoint(model)
        processor = AutoProcessor.from_pretrained(model)
        pictures = [read_image(path, processor.image_processor.max_image_pixels) for path in image]
        chat = Chat(load_network(model), processor, pictures, max_slices)
        streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        for line in [question] if question is not None else read_questions():
            chat.ask(line, max_new_tokens=max_new_tokens, streamer=streamer)


@app.command()
def inspect(
    image: Annotated[Path, typer.Option(help="Image file.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Picture of slices, overview and tokens to write.", show_default=False)
    ] = None,
    max_slices: MaxSlices = None,
    model: Annotated[
        str | None, typer.Option(help="Folder of a converted checkpoint, or its Hub id.", show_default="6 slices, 7B")
    ] = None,
) -> None:
    """Show how an image is cut, the order of its tokens, and about how much memory it takes."""
    with errors_in_one_line():
        if out is not None:
            check_suffix(out)
        image_processor, config = load_image_settings(model)
        picture = read_image(image, image_processor.max_image_pixels)
        inspection = inspect_image(picture, image_processor, config, max_slices)
        if out is not None:
            save_picture(draw_inspection(inspection), out)

        dtype = config.dtype or torch.bfloat16
        cost = estimate_cost([inspection.plan], config, dtype)
        facts = inspection.describe()
        facts["memory"] = (
            f"about {describe_bytes(cost.vision_bytes)} while the image is encoded, then "
            f"{describe_bytes(cost.cache_bytes)} of cache ({str(dtype).removeprefix('torch.')})"
        )
        for name, fact in facts.items():
            typer.echo(f"{name:<10}{fact}")


@app.command()
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
) -> None:
    """Check that a checkpoint is complete, and add its card and, if asked, its code."""
    with errors_in_one_line():
        request = CardRequest(card, license, base_model or (), dataset or ())
        missing = export_checkpoint(folder, out, request, with_code=with_code, repo_id=repo_id)
        typer.echo(f"Complete: {out or folder}")
        if missing:
            typer.echo(f"Before a push, README.md needs: {', '.join(missing)}", err=True)


@app.command()
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
) -> None:
    """Upload a checkpoint to the Hub; started again after an interruption, it continues."""
    with errors_in_one_line():
        url = push_checkpoint(
            folder,
            repo_id,
            CardRequest(card, license, base_model or (), dataset or ()),
            private=private,
            with_code=with_code,
            max_shard_size=max_shard_size,
            dry_run=dry_run,
            report=typer.echo,
        )
        typer.echo(f"Pushed: {url}" if url else "Nothing was sent.")


@app.command()
def visualize(
    image: Annotated[Path, typer.Option(help="Image file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Picture to write.", show_default=False)],
    what: Annotated[Literal["slices", "pyramid", "attention"], typer.Option(help="What to draw.")] = "pyramid",
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of a checkpoint; for a pyramid also what `train vdim` has written.",
            show_default="the 7B model without weights: its slices, and the pixels that guide its pyramid",
        ),
    ] = None,
    question: Annotated[str | None, typer.Option(help="What to ask, for attention.", show_default=False)] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="Number of a token of the answer, counted from 1, or a part of its text.",
            show_default="the whole answer",
        ),
    ] = None,
    max_new_tokens: MaxNewTokens = 512,
    max_slices: MaxSlices = None,
) -> None:
    """Draw how a model sees an image: its slices, its pyramids of features, or where it looks while it answers."""
    with errors_in_one_line():
        check_suffix(out)
        if what == "attention":
            from ..pictures.attention_picture import explain_answer

            if model is None or not question:
                raise ValueError("A picture of the attention needs --model and --question.")
            picture, answer = explain_answer(image, model, question, token, max_new_tokens, max_slices)
            save_picture(picture, out)
            typer.echo(answer)
            return
        if question is not None or token is not None:
            raise ValueError(f"--question and --token belong to --what attention, not to --what {what}.")
        if what == "slices":
            image_processor, config = load_image_settings(model)
            picture = read_image(image, image_processor.max_image_pixels)
            save_picture(draw_inspection(inspect_image(picture, image_processor, config, max_slices)), out)
        else:
            from ..pictures.pyramid import draw_pyramid, load_pyramid

            parts = load_pyramid(model)
            picture = read_image(image, parts.image_processor.max_image_pixels)
            save_picture(draw_pyramid(picture, parts, max_slices), out)


@app.command()
def demo(
    model: Annotated[
        list[str], typer.Option(help="Folder or Hub id of a checkpoint or an adapter; repeat it.", show_default=False)
    ],
    example: Annotated[
        list[Path] | None, typer.Option(help="Image file that the page offers; repeat it.", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port.", show_default="the first from 7860 that is free")
    ] = None,
) -> None:
    """Open a page, for this machine alone, where models answer questions about images and show how they see them."""
    with errors_in_one_line():
        from ..demo.page import serve

        serve(model, example or [], port, typer.echo)


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="Folder or Hub id of a checkpoint or an adapter.", show_default=False)],
    host: Annotated[str, typer.Option(help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="Name that clients call the model by.", show_default="the folder's")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LLAVA_UHD_V2_API_KEY", help="What clients must send.", show_default="nothing")
    ] = None,
    allow_private_image_urls: Annotated[
        bool, typer.Option("--allow-private-image-urls", help="Fetch images also from addresses that are not public.")
    ] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="Requests answered together.")] = Limits.batch,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests in hand; more get 429.")] = Limits.requests,
    max_request_bytes: Annotated[int, typer.Option(min=1, help="Longest body.")] = Limits.request_bytes,
    max_images: Annotated[int, typer.Option(min=1, help="Images of a request.")] = Limits.images,
    max_image_pixels: Annotated[int, typer.Option(min=1, help="Pixels of an image.")] = Limits.image_pixels,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest prompt, with its images.", show_default="what the model reads")
    ] = Limits.prompt_tokens,
    max_answer_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = Limits.answer_tokens,
    max_download_bytes: Annotated[
        int, typer.Option(min=1, help="All images of a request behind URLs.")
    ] = Limits.download_bytes,
    download_seconds: Annotated[float, typer.Option(help="For all images of a request.")] = Limits.download_seconds,
    body_seconds: Annotated[float, typer.Option(help="For the body of a request.")] = Limits.body_seconds,
    stop_seconds: Annotated[float, typer.Option(help="For requests in hand, when stopped.")] = Limits.stop_seconds,
) -> None:
    """Answer OpenAI's chat completions over HTTP, until interrupted."""
    with errors_in_one_line():
        from ..serve.server import serve as serve_model

        limits = Limits(
            request_bytes=max_request_bytes,
            images=max_images,
            image_pixels=max_image_pixels,
            prompt_tokens=max_prompt_tokens,
            answer_tokens=max_answer_tokens,
            batch=max_batch,
            requests=max_requests,
            body_seconds=body_seconds,
            download_seconds=download_seconds,
            download_bytes=max_download_bytes,
            stop_seconds=stop_seconds,
        )
        serve_model(model, host, port, limits, name=name, api_key=api_key, private_urls=allow_private_image_urls)


train = typer.Typer(no_args_is_help=True, help="Train a model or a part of it, by a recipe.")
app.add_typer(train, name="train")
RecipeName = Annotated[str, typer.Argument(help="YAML file, or the name of a shipped recipe.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Argument(help="key=value or section.key=value, instead of the recipe's.", show_default=False),
]


@train.command()
def vdim(recipe: RecipeName, settings: Settings = None) -> None:
    """Pre-train the up-sampler for a vision tower; started again, it goes on from its last checkpoint."""
    with errors_in_one_line():
        from ..training.stages.vdim.recipe import VdimRecipe
        from ..training.stages.vdim.run import train_vdim
        from ..utils.recipes import read_recipe

        path = train_vdim(read_recipe(VdimRecipe, recipe, settings or (), stage="vdim"))
        leave_process_group()
        typer.echo(f"Saved: {path}")


@train.command()
def pretrain(recipe: RecipeName, settings: Settings = None) -> None:
    """Stage 1: train the window attention on captions; started again, it goes on from its last checkpoint."""
    run_finetuning(recipe, settings, "pretrain")


@train.command()
def sft(recipe: RecipeName, settings: Settings = None) -> None:
    """Stage 2: fine-tune on conversations, whole or by LoRA; started again, it goes on from its last checkpoint."""
    run_finetuning(recipe, settings, "sft")


def run_finetuning(recipe: str, settings: list[str] | None, stage: Literal["pretrain", "sft"]) -> None:
    with errors_in_one_line():
        from ..training.stages.finetune.recipe import FinetuneRecipe
        from ..training.stages.finetune.run import finetune
        from ..utils.recipes import read_recipe

        folder = finetune(read_recipe(FinetuneRecipe, recipe, settings or (), stage=stage), stage)
        leave_process_group()
        typer.echo(f"Saved: {folder}")


def leave_process_group() -> None:
    """Ends the threads of gloo and NCCL: alive at the interpreter's exit, they sometimes abort the process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@app.command()
def merge(
    adapter: Annotated[str, typer.Argument(help="Folder or Hub id of an adapter that `train sft` has written.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; new, or empty.")],
) -> None:
    """Write the checkpoint of an adapter with the adapter in its weights."""
    with errors_in_one_line():
        from ..training.adapters import merge_adapter

        merge_adapter(adapter, output)
        typer.echo(f"Saved: {output}")


data = typer.Typer(no_args_is_help=True, help="Look at the data of a training.")
app.add_typer(data, name="data")


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
        from ..data.check import check_data
        from ..data.mixtures import ConversationData

        processor = None
        if model is not None:
            check_checkpoint(model)
            processor = AutoProcessor.from_pretrained(model)
        settings = ConversationData(
            source=source, images=images, split=split, max_length=max_length, max_slices=max_slices
        )
        report = check_data(settings, processor, num_workers=workers)
        if json_file is not None:
            with written_whole(json_file) as unfinished:
                text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False)
                unfinished.write_text(f"{text}\n", encoding="utf-8")
        for line in report.describe():
            typer.echo(line)
    if report.stops:
        raise typer.Exit(1)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Prints the first line of an expected error to stderr and exits with code 1."""
    try:
        yield
    except EXPECTED_ERRORS as error:
        typer.echo(f"Error: {describe_error(error)}", err=True)
        raise typer.Exit(1) from error


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
