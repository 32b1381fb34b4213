# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' pipeline for images and text, with batches of images of any shapes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.pipelines import ImageTextToTextPipeline

from .image_loading_llava_uhd_v2 import image_name, read_rgb


class LlavaUhdV2Pipeline(ImageTextToTextPipeline):
    """Answers prompts and chats about images, with `batch_size` in batches of images of any shapes.

    transformers' `ImageTextToTextPipeline` concatenates the `pixel_values` of a batch, which works for images of one
    shape only, does not batch inputs with images together with inputs without, and makes the images of prompts RGB in
    its own way, which loses floats and drops alpha.

    Use it as `pipeline("image-text-to-text", model, pipeline_class=LlavaUhdV2Pipeline)`. A checkpoint folder with code
    names it in config.json: there, `pipeline(..., trust_remote_code=True)` takes it.
    """

    def preprocess(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Prepares an input as transformers does, with the rows of `pixel_values` in a list, which batches append.

        Args:
            inputs: a chat, a text, or a mapping with `images` and `text`.
            args: handed to transformers.
            kwargs: handed to transformers.

        Raises:
            ValueError: if an image can't be used.
        """
        if isinstance(inputs, dict) and inputs.get("images") is not None:
            options = kwargs.get("processor_kwargs") or kwargs
            inputs = {**inputs, "images": self._read(inputs["images"], options)}
        inputs = super().preprocess(inputs, *args, **kwargs)
        inputs["pixel_values"] = list(inputs.get("pixel_values", ()))
        inputs["image_sizes"] = inputs.get("image_sizes", torch.zeros(0, 6, dtype=torch.long))
        return inputs

    def _read(self, images: Any, options: Mapping[str, Any]) -> Any:
        """Reads one image, or all of a list, as the image processor does."""
        if isinstance(images, (list, tuple)):
            return [self._read(image, options) for image in images]
        processor = self.processor.image_processor
        limits = {"max_pixels": processor.max_image_pixels, "alpha": options.get("alpha", processor.alpha)}
        try:
            return read_rgb(images, **limits)
        except ValueError as error:
            raise ValueError(f"The image {image_name(images)} cannot be used: {error}") from error

    def _forward(self, model_inputs: Any, **kwargs: Any) -> Any:
        parts = [part if isinstance(part, list) else [part] for part in model_inputs["pixel_values"]]
        if rows := sum(parts, []):
            model_inputs["pixel_values"] = pad_sequence(rows, batch_first=True)
        else:
            del model_inputs["pixel_values"], model_inputs["image_sizes"]
        return super()._forward(model_inputs, **kwargs)


__all__ = ["LlavaUhdV2Pipeline"]
