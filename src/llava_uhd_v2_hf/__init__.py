# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""LLaVA-UHD v2 for Hugging Face Transformers. Importing the package registers its classes with the Auto classes.

The import loads neither torch nor transformers: names load their module when they are used, and the classes are
registered when the module of an Auto class is imported, at once where it already is.
"""

import importlib
import sys
from typing import TYPE_CHECKING

from .utils.import_hooks import ImportHook


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


def _register_config() -> None:
    from transformers import AutoConfig

    from .model.configuration_llava_uhd_v2 import LlavaUhdV2Config

    AutoConfig.register(LlavaUhdV2Config.model_type, LlavaUhdV2Config)


def _register_models() -> None:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    from .model.configuration_llava_uhd_v2 import LlavaUhdV2Config
    from .model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration, LlavaUhdV2Model

    AutoModel.register(LlavaUhdV2Config, LlavaUhdV2Model)
    AutoModelForImageTextToText.register(LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration)
    AutoModelForCausalLM.register(LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration)


def _register_image_processor() -> None:
    from transformers import AutoImageProcessor

    from .model.configuration_llava_uhd_v2 import LlavaUhdV2Config
    from .model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor

    AutoImageProcessor.register(LlavaUhdV2Config, image_processor_classes={"pil": LlavaUhdV2ImageProcessor})


def _register_processor() -> None:
    from transformers import AutoProcessor

    from .model.configuration_llava_uhd_v2 import LlavaUhdV2Config
    from .model.processing_llava_uhd_v2 import LlavaUhdV2Processor

    AutoProcessor.register(LlavaUhdV2Config, LlavaUhdV2Processor)


_OWN = f"{__name__}.model."
_pending = {  # by the module of the Auto class
    f"transformers.models.auto.{kind}_auto": register
    for kind, register in {
        "configuration": _register_config,
        "modeling": _register_models,
        "image_processing": _register_image_processor,
        "processing": _register_processor,
    }.items()
}
_executed = {name for name in _pending if name in sys.modules}


def _register_what_is_ready(executed: str | None = None) -> None:
    """Registers the classes whose Auto class is there, unless a module of ours is half imported: it comes again."""
    if executed is not None:
        _executed.add(executed)
    if all(name in _executed for name in list(sys.modules) if name.startswith(_OWN)):
        for auto in _executed & set(_pending):
            register = _pending.pop(auto, None)
            if register is not None:
                register()


def _is_watched(name: str) -> bool:
    return name in _pending or name.startswith(_OWN)


sys.meta_path.insert(0, ImportHook(_is_watched, _register_what_is_ready))
_register_what_is_ready()

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
