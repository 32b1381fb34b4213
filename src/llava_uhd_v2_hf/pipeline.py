# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' pipeline for images and text, with batches of images of any shapes.

pipeline("image-text-to-text", model=..., pipeline_class=LlavaUhdV2Pipeline, batch_size=8)
"""

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.pipelines import ImageTextToTextPipeline


class LlavaUhdV2Pipeline(ImageTextToTextPipeline):
    """transformers' `ImageTextToTextPipeline`, which with `batch_size` also joins images of different shapes.

    transformers itself concatenates the `pixel_values` of the inputs of a batch, which must then be of one length, and
    joins no inputs with images to inputs without.
    """

    def preprocess(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers does, with the rows of `pixel_values` in a list, which is joined by appending.

        Args:
            args: handed to transformers.
            kwargs: likewise.
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
