# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""LLaVA-UHD v2 for Hugging Face Transformers. Importing the package registers its classes with the Auto classes.

The import loads neither torch nor transformers: names load their module when they are used, and the classes are
registered when transformers' Auto classes are imported, at once where they already are.
"""

import importlib
from typing import TYPE_CHECKING

from .utils.import_hooks import call_after_import


if TYPE_CHECKING:
    from .model.configuration_llava_uhd_v2 import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
    from .model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
    from .model.modeling_llava_uhd_v2 import (
        LlavaUhdV2ForConditionalGeneration,
        LlavaUhdV2Model,
        LlavaUhdV2PreTrainedModel,
    )
    from .model.pipeline_llava_uhd_v2 import LlavaUhdV2Pipeline
    from .model.processing_llava_uhd_v2 import LlavaUhdV2Processor
else:
    _MODULES = {
        "LlavaUhdV2Config": "configuration",
        "LlavaUhdV2ForConditionalGeneration": "modeling",
        "LlavaUhdV2ImageProcessor": "image_processing",
        "LlavaUhdV2Model": "modeling",
        "LlavaUhdV2Pipeline": "pipeline",
        "LlavaUhdV2PreTrainedModel": "modeling",
        "LlavaUhdV2Processor": "processing",
        "LlavaUhdV2ProjectorConfig": "configuration",
    }

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = getattr(importlib.import_module(f".model.{_MODULES[name]}_llava_uhd_v2", __name__), name)
        return globals()[name]

    def __dir__():
        return sorted({*globals(), *_MODULES})


def _register() -> None:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoProcessor,
    )

    from .model.configuration_llava_uhd_v2 import LlavaUhdV2Config
    from .model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
    from .model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration, LlavaUhdV2Model
    from .model.processing_llava_uhd_v2 import LlavaUhdV2Processor

    AutoConfig.register(LlavaUhdV2Config.model_type, LlavaUhdV2Config)
    AutoImageProcessor.register(LlavaUhdV2Config, image_processor_classes={"pil": LlavaUhdV2ImageProcessor})
    AutoProcessor.register(LlavaUhdV2Config, LlavaUhdV2Processor)
    AutoModel.register(LlavaUhdV2Config, LlavaUhdV2Model)
    AutoModelForImageTextToText.register(LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration)
    AutoModelForCausalLM.register(LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration)


# every module with an Auto class imports this one
call_after_import("transformers.models.auto.configuration_auto", _register, packages=("transformers", __name__))

__all__ = [
    "LlavaUhdV2Config",
    "LlavaUhdV2ForConditionalGeneration",
    "LlavaUhdV2ImageProcessor",
    "LlavaUhdV2Model",
    "LlavaUhdV2Pipeline",
    "LlavaUhdV2PreTrainedModel",
    "LlavaUhdV2Processor",
    "LlavaUhdV2ProjectorConfig",
]
