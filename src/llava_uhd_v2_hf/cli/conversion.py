# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Between the authors' files and ours: `convert`, `verify`, `assemble`, `export-released`, `convert-lora`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..conversion.released_defaults import KNOWN_VISION_TOWER, MAX_SLICES
from .support import errors_in_one_line


Output = Annotated[Path, typer.Argument(help="Folder to write; new, or empty.", show_default=False)]
Dtype = Literal["float32", "bfloat16", "float16"]


@contextmanager
def conversion_errors() -> Iterator[None]:
    """Prints an expected error in one line, and below it the tensors that do not fit; exits with code 1."""
    with errors_in_one_line():
        try:
            yield
        except ValueError as error:
            from ..conversion.weight_map import TensorMismatchError

            if not isinstance(error, TensorMismatchError):
                raise
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(1) from error


def convert(
    source: Annotated[str, typer.Argument(help="Folder or Hub id of the released checkpoint.", show_default=False)],
    output: Output,
    vision_config: Annotated[
        Path | None,
        typer.Option(help="The vision tower's config.json, where it is not CLIP-ViT-L/14-336.", show_default=False),
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of all weights.", show_default="that of the weights")] = None,
    skip_tokenizer: Annotated[
        bool, typer.Option("--skip-tokenizer", help="Write the image processor only, no tokenizer.")
    ] = False,
) -> None:
    """Convert a checkpoint of the authors' code to one that transformers loads."""
    with conversion_errors():
        from ..conversion.convert import convert_checkpoint

        convert_checkpoint(source, output, vision_config=vision_config, dtype=dtype, skip_tokenizer=skip_tokenizer)


def verify(
    source: Annotated[str, typer.Argument(help="Folder or Hub id that OUTPUT was made from.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="Folder to check.", exists=True, file_okay=False, show_default=False)],
    logits: Annotated[
        Path | None,
        typer.Option(
            help="Safetensors file with inputs and the logits of another run.", exists=True, show_default=False
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Largest difference of a logit.")] = 1e-4,
) -> None:
    """Compare a conversion with its source, tensor by tensor; exit with code 1 on any difference."""
    with conversion_errors():
        from ..conversion.verify import verify_checkpoint

        if not verify_checkpoint(source, output, logits=logits, tolerance=tolerance):
            raise typer.Exit(1)


def assemble(
    vision_tower: Annotated[
        str, typer.Argument(help="Folder or Hub id of a CLIP, SigLIP or DINOv2 model.", show_default=False)
    ],
    text_model: Annotated[
        str,
        typer.Argument(help="Folder, Hub id or GGUF file of a causal language model.", show_default=False),
    ],
    output: Output,
    vdim: Annotated[
        Path | None,
        typer.Option(help="Pre-training file of the up-sampler, ours or the authors'.", show_default=False),
    ] = None,
    projector: Annotated[
        Path | None, typer.Option(help="The authors' mm_projector.bin after stage 1.", show_default=False)
    ] = None,
    levels: Annotated[str, typer.Option(help="Levels of the pyramid.")] = "0,1,2",
    upsampler: Annotated[str, typer.Option(help="How features are up-sampled: vdim, bilinear.")] = "vdim",
    query_grid: Annotated[tuple[int, int], typer.Option(help="Rows and columns of tokens of a view.")] = (12, 12),
    num_query_sets: Annotated[int, typer.Option(help="Sets of queries: released 4, paper 1.")] = 4,
    max_slices: Annotated[int, typer.Option(min=1, help="Of an image: released 9, paper 6.")] = MAX_SLICES,
    token_layout: Annotated[
        Literal["spatial", "sequential"], typer.Option(help="Order of an image's tokens.")
    ] = "spatial",
    row_separator_id: Annotated[
        int | None, typer.Option(help="Token whose embedding ends a row.", show_default="the tokenizer's newline")
    ] = None,
    slice_separator_id: Annotated[
        int | None, typer.Option(help="Token whose embedding separates slices.", show_default="the tokenizer's comma")
    ] = None,
    chat_template: Annotated[
        str | None,
        typer.Option(
            metavar="own|vicuna|qwen2|plain|FILE",
            help="Format of conversations: the language model's own, a released one, or a file in Jinja.",
            show_default="own, or vicuna or qwen2 where a Llama or Qwen2 has none that can be used",
        ),
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Of all weights.", show_default="that of the language model")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the new weights' random numbers.")] = 0,
) -> None:
    """Build a checkpoint to train, from a vision tower and a language model."""
    with conversion_errors():
        from ..conversion.assemble import AssemblyOptions
        from ..conversion.assemble import assemble as assemble_checkpoint

        if not all(level.strip().isdecimal() for level in levels.split(",")):
            raise ValueError(f"--levels must be numbers with commas between them, such as 0,1,2; got {levels!r}.")
        options = AssemblyOptions(
            vdim=vdim,
            projector=projector,
            levels=tuple(int(level) for level in levels.split(",")),
            upsampler=upsampler,
            query_grid=query_grid,
            num_query_sets=num_query_sets,
            max_slices=max_slices,
            token_layout=token_layout,
            row_separator_id=row_separator_id,
            slice_separator_id=slice_separator_id,
            chat_template=chat_template,
            dtype=dtype,
            seed=seed,
        )
        assemble_checkpoint(vision_tower, text_model, output, options)


def export_released(
    source: Annotated[str, typer.Argument(help="Folder or Hub id of our checkpoint.", show_default=False)],
    output: Output,
    vision_tower: Annotated[
        str, typer.Option(help="Name or path from which the authors' code reads the tower's shape.")
    ] = f"openai/{KNOWN_VISION_TOWER}",
) -> None:
    """Write our checkpoint in the layout of the authors' released ones."""
    with conversion_errors():
        from ..conversion.export import export_checkpoint

        export_checkpoint(source, output, vision_tower=vision_tower)


def convert_lora(
    source: Annotated[
        Path,
        typer.Argument(help="LoRA folder of the authors' code.", exists=True, file_okay=False, show_default=False),
    ],
    base: Annotated[
        str, typer.Argument(help="Folder or Hub id of our checkpoint that it belongs to.", show_default=False)
    ],
    output: Output,
) -> None:
    """Convert a LoRA folder of the authors' code to a PEFT adapter of our model."""
    with conversion_errors():
        from ..conversion.lora import convert_lora as convert_lora_folder

        convert_lora_folder(source, base, output)
