# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""How a model sees an image: `inspect`, `visualize`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .support import AlphaOption, MaxNewTokens, MaxSlices, errors_in_one_line, set_alpha


OneImage = Annotated[str, typer.Option(help="Image file or http(s) URL.", show_default=False)]


def inspect(
    image: OneImage,
    out: Annotated[
        Path | None, typer.Option(help="Picture of slices, overview and tokens to write.", show_default=False)
    ] = None,
    max_slices: MaxSlices = None,
    model: Annotated[
        str | None, typer.Option(help="Folder of a converted checkpoint, or its Hub id.", show_default="6 slices, 7B")
    ] = None,
    alpha: AlphaOption = None,
) -> None:
    """Show how an image is cut, the order of its tokens, and about how much memory it takes."""
    with errors_in_one_line():
        import torch

        from ..inference.cost import estimate_cost
        from ..inference.inspection import inspect_image
        from ..inference.loading import load_image_settings, read_image
        from ..pictures.canvas import check_suffix, save_picture
        from ..pictures.slices import draw_inspection
        from ..utils.units import describe_bytes

        if out is not None:
            check_suffix(out)
        image_processor, config = load_image_settings(model)
        set_alpha(image_processor, alpha)
        picture = read_image(image, image_processor)
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


def visualize(
    image: OneImage,
    out: Annotated[Path, typer.Option(help="Picture to write.", show_default=False)],
    what: Annotated[Literal["slices", "pyramid", "attention"], typer.Option(help="What to draw.")] = "pyramid",
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of a checkpoint; for a pyramid also what `train vdim` has written.",
            show_default="the 7B model without weights: its slices, and the pixels that guide its pyramid",
        ),
    ] = None,
    question: Annotated[str | None, typer.Option(help="What to ask, for attention alone.", show_default=False)] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="Number of a token of the answer, counted from 1, or a part of its text.",
            show_default="the whole answer",
        ),
    ] = None,
    max_new_tokens: MaxNewTokens = 512,
    max_slices: MaxSlices = None,
    alpha: AlphaOption = None,
) -> None:
    """Draw how a model sees an image: its slices, its pyramids of features, or where it looks while it answers."""
    with errors_in_one_line():
        from ..inference.inspection import inspect_image
        from ..inference.loading import load_image_settings, read_image
        from ..pictures.canvas import check_suffix, save_picture
        from ..pictures.slices import draw_inspection

        check_suffix(out)
        if what == "attention":
            from ..pictures.attention_picture import explain_answer

            if model is None or not question:
                raise ValueError("A picture of the attention needs --model and --question.")
            picture, answer = explain_answer(image, model, question, token, max_new_tokens, max_slices, alpha)
            save_picture(picture, out)
            typer.echo(answer)
            return
        if what == "slices":
            image_processor, config = load_image_settings(model)
            set_alpha(image_processor, alpha)
            picture = read_image(image, image_processor)
            save_picture(draw_inspection(inspect_image(picture, image_processor, config, max_slices)), out)
        else:
            from ..pictures.pyramid import draw_pyramid, load_pyramid

            parts = load_pyramid(model)
            set_alpha(parts.image_processor, alpha)
            picture = read_image(image, parts.image_processor)
            save_picture(draw_pyramid(picture, parts, max_slices), out)
