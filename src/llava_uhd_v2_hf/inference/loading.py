# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Loads what commands and the demo are given: checkpoints and image files."""

from pathlib import Path

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.image_loading_llava_uhd_v2 import as_image, read_pixels
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from .adapter_fit import weights_that_fit
from .checkpoints import check_checkpoint


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
    with weights_that_fit(model):
        network = AutoModelForImageTextToText.from_pretrained(model, dtype="auto")
    return network.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")


__all__ = ["load_image_settings", "load_network", "read_image"]
