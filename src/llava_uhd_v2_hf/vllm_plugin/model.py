# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The model inside vLLM: its Transformers back end, a projector of our own layers, and no image tokens said."""

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.models.transformers import TransformersMultiModalForCausalLM
from vllm.model_executor.models.transformers.multimodal import MultiModalDummyInputsBuilder, MultiModalProcessingInfo
from vllm.multimodal import MULTIMODAL_REGISTRY

from .processing import LlavaUhdV2MultiModalProcessor


@MULTIMODAL_REGISTRY.register_processor(
    LlavaUhdV2MultiModalProcessor, info=MultiModalProcessingInfo, dummy_inputs=MultiModalDummyInputsBuilder
)
class LlavaUhdV2ForConditionalGeneration(TransformersMultiModalForCausalLM):
    """Serves our checkpoints.

    Args:
        vllm_config: vLLM's.
        prefix: of the names of its modules.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        generation = vllm_config.model_config.try_get_generation_config() or {}
        self.suppressed_tokens = list(generation.get("suppress_tokens") or ())

    def recursive_replace(self) -> None:
        """Replaces layers by vLLM's, but for those of an unquantised projector, whose weights the fast order reads."""
        if self.quant_config is not None:
            super().recursive_replace()
            return
        visual = self.model.visual
        projector, visual.projector = visual.projector, nn.Identity()
        super().recursive_replace()
        visual.projector = projector

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """The logits, (n, vocabulary); tokens of the generation config's `suppress_tokens` are never said."""
        logits = super().compute_logits(hidden_states)
        if logits is not None and self.suppressed_tokens:
            logits[:, self.suppressed_tokens] = float("-inf")
        return logits


__all__ = ["LlavaUhdV2ForConditionalGeneration"]
