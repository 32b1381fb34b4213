# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""LLaVA-UHD v2 for Hugging Face Transformers. Importing the package registers its classes with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from .model.configuration_llava_uhd_v2 import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from .model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from .model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration, LlavaUhdV2Model, LlavaUhdV2PreTrainedModel
from .model.pipeline_llava_uhd_v2 import LlavaUhdV2Pipeline
from .model.processing_llava_uhd_v2 import LlavaUhdV2Processor


AutoConfig.register(LlavaUhdV2Config.model_type, LlavaUhdV2Config)
AutoImageProcessor.register(LlavaUhdV2Config, image_processor_classes={"pil": LlavaUhdV2ImageProcessor})
AutoProcessor.register(LlavaUhdV2Config, LlavaUhdV2Processor)
AutoModel.register(LlavaUhdV2Config, LlavaUhdV2Model)
AutoModelForImageTextToText.register(LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration)
AutoModelForCausalLM.register(LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration)

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
