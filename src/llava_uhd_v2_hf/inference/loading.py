# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Opens what commands and the page are given, checkpoints and image files; says in a line what is wrong with it."""

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.image_loading_llava_uhd_v2 import as_image, read_pixels
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from .checkpoints import check_checkpoint


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
EXTRAS = {"gradio": "demo"} | dict.fromkeys(["fastapi", "httpcore2", "prometheus_client", "uvicorn"], "serve")


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


def read_image(path: Path, max_pixels: int | None) -> Image.Image:
    """The file as an RGB image.

    Raises:
        OSError: if it is not there or can't be opened.
        ValueError: if it is no image or has more than `max_pixels` pixels.
    """
    if not path.is_file():
        hint = " URLs are not taken here; download it first." if str(path).startswith(("http:", "https:")) else ""
        raise FileNotFoundError(f"There is no image file {path}.{hint}")
    try:
        return Image.fromarray(read_pixels(as_image(path), max_pixels=max_pixels))
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


def load_image_settings(model: str | None) -> tuple[LlavaUhdV2ImageProcessor, LlavaUhdV2Config]:
    """How a model cuts images, without its weights.

    Args:
        model: folder or Hub id of a checkpoint or an adapter; None for the defaults.

    Raises:
        OSError, ValueError: see [`check_checkpoint`].
    """
    if model is None:
        return LlavaUhdV2ImageProcessor(), LlavaUhdV2Config()
    config = AutoConfig.from_pretrained(check_checkpoint(model))
    return AutoImageProcessor.from_pretrained(model), config


def load_network(model: str) -> LlavaUhdV2ForConditionalGeneration:
    """The weights, in evaluation mode, on the accelerator if there is one.

    Raises:
        OSError, ValueError: if the model can't be loaded.
    """
    network = AutoModelForImageTextToText.from_pretrained(model, dtype="auto")
    return network.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")


__all__ = ["describe_error", "load_image_settings", "load_network", "read_image"]
