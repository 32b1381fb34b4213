# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Loads what commands and the demo are given: checkpoints and image files."""

import os
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.image_loading_llava_uhd_v2 import image_name, is_web_url, read_rgb
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from .adapter_fit import weights_that_fit
from .checkpoints import check_checkpoint


def read_image(source: str | os.PathLike[str], image_processor: LlavaUhdV2ImageProcessor) -> Image.Image:
    """Reads a file or an http(s) URL as an RGB image, within the limits of the image processor.

    Raises:
        OSError: if the file is not there.
        ValueError: if it can't be opened or downloaded, is not an image or has too many pixels.
    """
    if not Path(source).is_file() and not is_web_url(str(source)):
        raise FileNotFoundError(f"There is no image file {source}.")
    try:
        return read_rgb(source, max_pixels=image_processor.max_image_pixels, alpha=image_processor.alpha)
    except ValueError as error:
        raise ValueError(f"{image_name(source)} cannot be used: {error}") from error


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
