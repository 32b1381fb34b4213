# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Errors that a user's input can cause, each as one line."""

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


def describe_error(error: Exception) -> str:
    """One line about an error of `EXPECTED_ERRORS`, for whoever gave the input."""
    if isinstance(error, torch.OutOfMemoryError):
        return "The accelerator's memory is too small for these images; try fewer slices (max_slices) or images."
    if isinstance(error, ModuleNotFoundError):
        extra = EXTRAS.get(error.name or "", "train")
        return f"{error.name} is not installed; this needs: pip install '.[{extra}]' in a clone of llava-uhd-v2-hf"
    if isinstance(error, SafetensorError) and str(error).startswith("Error while serializing"):
        return f"A file of weights can't be written ({error}); make room on the disk."
    if isinstance(error, SafetensorError):
        return f"A file of weights is damaged or cut off ({error}); copy or download it again."
    if isinstance(error, StrictDataclassError):
        return " ".join(str(error).split())
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "in DataLoader worker process" in lines[0]:  # a worker puts its traceback before the message
        return lines[-1].partition(": ")[2] or lines[-1]
    return lines[0]


__all__ = ["EXPECTED_ERRORS", "describe_error"]
