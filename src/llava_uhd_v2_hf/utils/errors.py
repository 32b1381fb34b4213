# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Errors that a user's input can cause, each as one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


# by the module that has them; of a config.json with wrong values, and of weights that are cut off, too
LIBRARY_ERRORS = {
    "torch": "OutOfMemoryError",
    "huggingface_hub.errors": "StrictDataclassError",
    "safetensors": "SafetensorError",
}
# of setup.cfg; what is not here belongs to training
EXTRAS = {"gradio": "demo", "gguf": "gguf", "vllm": "vllm"} | dict.fromkeys(
    ["fastapi", "httpcore2", "prometheus_client", "uvicorn"], "serve"
)


def expected_errors() -> tuple[type[Exception], ...]:
    """Returns the errors that a user's input can cause; of the libraries', those of loaded ones."""
    loaded = [getattr(sys.modules[name], error) for name, error in LIBRARY_ERRORS.items() if name in sys.modules]
    return (ModuleNotFoundError, OSError, ValueError, *loaded)


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
    """Returns one line about an error of `expected_errors`, for whoever gave the input."""
    names = {parent.__name__ for parent in type(error).__mro__}
    if "OutOfMemoryError" in names:
        return "The accelerator's memory is too small for these images; try fewer slices (max_slices) or images."
    if isinstance(error, ModuleNotFoundError):
        extra = EXTRAS.get(error.name or "", "train")
        return f"{error.name} is not installed; this needs: pip install '.[{extra}]' in a clone of llava-uhd-v2-hf"
    if "SafetensorError" in names and str(error).startswith("Error while serializing"):
        return f"A file of weights can't be written ({error}); make room on the disk."
    if "SafetensorError" in names:
        return f"A file of weights is damaged or cut off ({error}); copy or download it again."
    if "StrictDataclassError" in names:
        return " ".join(str(error).split())
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "in DataLoader worker process" in lines[0]:  # a worker puts its traceback before the message
        return lines[-1].partition(": ")[2] or lines[-1]
    return lines[0]


__all__ = ["describe_error", "expected_errors", "file_errors"]
