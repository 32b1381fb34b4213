# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Errors that a user's input can cause, each as one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError


# of a config.json with wrong values, and of weights that are cut off, too
EXPECTED_ERRORS = (
    torch.OutOfMemoryError,
    ModuleNotFoundError,
    OSError,
    ValueError,
    StrictDataclassError,
    SafetensorError,
)
# of setup.cfg; what is not here belongs to training
EXTRAS = {"gradio": "demo", "gguf": "gguf"} | dict.fromkeys(
    ["fastapi", "httpcore2", "prometheus_client", "uvicorn"], "serve"
)


@contextmanager
def file_errors(place: object, problem: str) -> Iterator[None]:
    """Turns whatever a library raises about a file's contents into an error that names the file.

    Args:
        place: the file or folder.
        problem: what is wrong with it then, such as "can't be loaded".

    Raises:
        ValueError: if anything but a ValueError or an OSError is raised within.
    """
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{place} {problem} ({reason}).") from error


def describe_error(error: Exception) -> str:
    """One line about an error of `EXPECTED_ERRORS`, for whoever gave the input."""
    if isinstance(error, torch.OutOfMemoryError):
        return "The accelerator's memory is too small for these images; try fewer slices (max_slices) or images."
    if isinstance(error, ModuleNotFoundError):
        extra = EXTRAS.get(error.name or "", "train")
        return f"{error.name} is not installed; this needs: pip install '.[{extra}]' in a clone of llava-uhd-v2-hf"
    if isinstance(error, SafetensorError):
        return f"A file of weights is damaged or cut off ({error}); copy or download it again."
    if isinstance(error, StrictDataclassError):
        return " ".join(str(error).split())
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "in DataLoader worker process" in lines[0]:  # a worker puts its traceback before the message
        return lines[-1].partition(": ")[2] or lines[-1]
    return lines[0]


__all__ = ["EXPECTED_ERRORS", "describe_error", "file_errors"]
