# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The server: `serve`."""

from typing import Annotated, Literal

import typer

from ..serve.limits import Limits
from .support import errors_in_one_line


OF_VLLM = {"model", "vllm_options", "engine", "host", "port", "name", "api_key", "max_images"}


def serve(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Folder or Hub id of a checkpoint or an adapter.", show_default=False)],
    vllm_options: Annotated[
        list[str] | None, typer.Argument(help="With --engine vllm, behind --: options of vLLM.", show_default=False)
    ] = None,
    engine: Annotated[
        Literal["embedded", "vllm"], typer.Option(help="This package's own server, or vLLM's for many users.")
    ] = "embedded",
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
    decode_seconds: Annotated[float, typer.Option(help="For all images of a request.")] = Limits.decode_seconds,
    max_decode_bytes: Annotated[
        int, typer.Option(min=1, help="Memory for decoding the images of a request.")
    ] = Limits.decode_bytes,
    stop_seconds: Annotated[
        float, typer.Option(help="From SIGTERM or SIGINT to the end of the process.")
    ] = Limits.stop_seconds,
) -> None:
    """Answer OpenAI's chat completions over HTTP, until interrupted."""
    with errors_in_one_line():
        if engine == "vllm":
            from ..serve.vllm import start_vllm

            refuse_options_of_ours(context)
            start_vllm(model, host, port, name=name, api_key=api_key, images=max_images, options=vllm_options or ())
        if vllm_options:
            raise ValueError(f"{' '.join(vllm_options)} would be options of vLLM; give `--engine vllm`.")
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
            decode_seconds=decode_seconds,
            decode_bytes=max_decode_bytes,
            stop_seconds=stop_seconds,
        )
        serve_model(model, host, port, limits, name=name, api_key=api_key, private_urls=allow_private_image_urls)


def refuse_options_of_ours(context: typer.Context) -> None:
    """Refuses options that vLLM's server doesn't have.

    Raises:
        ValueError: naming them.
    """
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if ours := [f"--{name.replace('_', '-')}" for name in given if name not in OF_VLLM]:
        raise ValueError(f"{', '.join(ours)} are not for `--engine vllm`; give vLLM's own options behind `--`.")
