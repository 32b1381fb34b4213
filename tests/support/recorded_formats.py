# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The recorded training formats: processors for them, and token ids as the recordings have them."""

from pathlib import Path

from transformers import AddedToken, AutoTokenizer

from llava_uhd_v2_hf import LlavaUhdV2ImageProcessor, LlavaUhdV2Processor
from llava_uhd_v2_hf.model.chat_templates_llava_uhd_v2 import (
    PLAIN_TEMPLATE,
    QWEN_CHATML_TEMPLATE,
    VICUNA_V1_TEMPLATE,
)


SENTENCEPIECE, BYTE_LEVEL = "sentencepiece_llama_like", "byte_level_qwen_like"
# recorded training format -> tokenizer, what follows an image, chat template
FORMATS = {
    "v1": (SENTENCEPIECE, " ", VICUNA_V1_TEMPLATE),
    "qwen_1_5": (BYTE_LEVEL, "", QWEN_CHATML_TEMPLATE),
    "plain": (SENTENCEPIECE, " ", PLAIN_TEMPLATE),
    "plain_with_byte_level_tokenizer": (BYTE_LEVEL, "", PLAIN_TEMPLATE),
}


def build_processor(reference: Path, name: str) -> LlavaUhdV2Processor:
    """The processor of a recorded format, set up for generation: padding on the left."""
    tokenizer_name, image_suffix, template = FORMATS[name]
    tokenizer = AutoTokenizer.from_pretrained(reference / "tokenizers" / tokenizer_name, padding_side="left")
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    return LlavaUhdV2Processor(
        LlavaUhdV2ImageProcessor(), tokenizer, image_suffix=image_suffix, chat_template=template
    )


def collapse(processor: LlavaUhdV2Processor, ids: list[int]) -> tuple[list[int], list[int]]:
    """Runs of image tokens become one -200, the released code's mark; returns ids and the positions kept."""
    kept = [
        position
        for position, token in enumerate(ids)
        if token != processor.image_token_id or position == 0 or ids[position - 1] != token
    ]
    return [-200 if ids[position] == processor.image_token_id else ids[position] for position in kept], kept
