# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Prompts inside vLLM: what its processor leaves out of the images of ours."""

from typing import Any

from vllm.model_executor.models.transformers.multimodal import MultiModalProcessor


class LlavaUhdV2MultiModalProcessor(MultiModalProcessor):
    """vLLM's processor, which also puts `image_suffix` behind images, and refuses marks without an image."""

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """As vLLM's.

        Args:
            inputs: of the prompt, in token ids.
            timing_ctx: for vLLM's statistics.

        Raises:
            ValueError: if the prompt marks more or fewer images than there are.
        """
        processor = self.info.get_hf_processor()
        marks = inputs.prompt.count(processor.image_token_id)
        images = inputs.mm_data_items.get_all_counts().get("image", 0)
        if marks != images:
            raise ValueError(
                f"Expected an `{processor.image_token}` for each image, got {marks} of them and {images} images; "
                "leave the mark out of texts."
            )
        return super().apply(inputs, timing_ctx)

    def _postprocess_prompt(self, prompt: list[int]) -> list[int]:
        """Puts the suffix between an image and text that follows it, as `get_text_with_replacements` does in text."""
        processor = self.info.get_hf_processor()
        suffix = self.info.get_tokenizer().encode(processor.image_suffix, add_special_tokens=False)
        image, ids = processor.image_token_id, []
        for token, following in zip(prompt, [*prompt[1:], image], strict=True):
            ids += [token, *suffix] if token == image and following != image else [token]
        return ids


__all__ = ["LlavaUhdV2MultiModalProcessor"]
