# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""vLLM's server in the place of ours: many users, several GPUs."""

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..inference.checkpoints import check_checkpoint, is_adapter


def start_vllm(
    model: str, host: str, port: int, *, name: str | None, api_key: str | None, images: int, options: Sequence[str]
) -> NoReturn:
    """Turns this process into vLLM's server.

    Args:
        model: folder or Hub id of a checkpoint.
        host: name or address to listen on.
        port: to listen on.
        name: that clients call the model by; None for `model`.
        api_key: what clients must send; None for nothing.
        images: of a request, at most.
        options: of vLLM's own command line, which win.

    Raises:
        ModuleNotFoundError: if vllm is not installed.
        OSError, ValueError: if the model can't be used, or is an adapter.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ModuleNotFoundError("vllm is needed for `--engine vllm`.", name="vllm")
    base = check_checkpoint(model)
    if is_adapter(model):
        raise ValueError(
            f"{model} is an adapter; merge it first with `llava-uhd-v2 merge`, or serve {base} with "
            f"`-- --enable-lora --lora-modules NAME={model}` if the adapter has nothing but LoRA weights."
        )
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--host", host]
    command += ["--port", str(port), "--limit-mm-per-prompt", json.dumps({"image": images})]
    command += ["--chat-template-content-format", "openai", *(["--served-model-name", name] if name else []), *options]
    os.execve(sys.executable, command, os.environ | ({"VLLM_API_KEY": api_key} if api_key else {}))


__all__ = ["start_vllm"]
