# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' pipeline for images and text, with batches of images of any shapes, and its place in transformers."""

from importlib import import_module
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.pipelines import PIPELINE_REGISTRY, ImageTextToTextPipeline


TASK = "image-text-to-text"


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


def register_pipeline(model_type: str) -> None:
    """Makes `pipeline("image-text-to-text")` take [`LlavaUhdV2Pipeline`] for models of a type.

    transformers has one class for a task, whatever the model. The one that is put in its place builds a pipeline of
    the class that was there before for every other model, and so changes nothing for them.

    Args:
        model_type: of the models' configs.
    """
    entry = PIPELINE_REGISTRY.check_task(TASK)[1]
    others = entry["impl"]
    if isinstance(others, str):  # since transformers 5.24, "module.Class"
        module, _, name = others.rpartition(".")
        others = getattr(import_module(module), name)

    class PipelineOfModelType(others):  # type: ignore[misc, valid-type]
        """Builds a pipeline of the class that fits the model."""

        def __new__(cls, model: Any, *args: Any, **kwargs: Any) -> Any:
            fitting = LlavaUhdV2Pipeline if model.config.model_type == model_type else others
            return fitting(model, *args, **kwargs)

    entry["impl"] = PipelineOfModelType


__all__ = ["LlavaUhdV2Pipeline", "register_pipeline"]
