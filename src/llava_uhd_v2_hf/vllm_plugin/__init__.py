# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""vLLM's plugin: an entry point of the group `vllm.general_plugins`, which vLLM calls in each of its processes."""


def register() -> None:
    """Registers configuration and processors with transformers, and the model with vLLM by its name."""
    from vllm import ModelRegistry

    import llava_uhd_v2_hf  # noqa: F401  registers with transformers' Auto classes

    architecture = "LlavaUhdV2ForConditionalGeneration"
    ModelRegistry.register_model(architecture, f"{__name__}.model:{architecture}")


__all__ = ["register"]
