# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' pipeline for images and text, with batches of images of any shapes."""

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.pipelines import ImageTextToTextPipeline


class LlavaUhdV2Pipeline(ImageTextToTextPipeline):
    """Answers prompts and chats about images, with `batch_size` in batches of images of any shapes.

    transformers' `ImageTextToTextPipeline` concatenates the `pixel_values` of a batch, which works for images of one
    shape only, and does not batch inputs with images together with inputs without.

    Use it as `pipeline("image-text-to-text", model, pipeline_class=LlavaUhdV2Pipeline)`. A checkpoint folder with code
    names it in config.json: there, `pipeline(..., trust_remote_code=True)` takes it.
    """

    def preprocess(self, *args: Any, **kwargs: Any) -> Any:
        """Prepares an input as transformers does, with the rows of `pixel_values` in a list, which batches append.

        Args:
            args: handed to transformers.
            kwargs: handed to transformers.
        """
        inputs = super().preprocess(*args, **kwargs)
        inputs["pixel_values"] = list(inputs.get("pixel_values", ()))
        inputs["image_sizes"] = inputs.get("image_sizes", torch.zeros(0, 6, dtype=torch.long))
        return inputs

    def _forward(self, model_inputs: Any, **kwargs: Any) -> Any:
        parts = [part if isinstance(part, list) else [part] for part in model_inputs["pixel_values"]]
        if rows := sum(parts, []):
            model_inputs["pixel_values"] = pad_sequence(rows, batch_first=True)
        else:
            del model_inputs["pixel_values"], model_inputs["image_sizes"]
        return super()._forward(model_inputs, **kwargs)


__all__ = ["LlavaUhdV2Pipeline"]
