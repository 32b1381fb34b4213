# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' common processor tests, run against ours."""

import unittest
from pathlib import Path

import pytest
from transformers import AddedToken, AutoTokenizer

from llava_uhd_v2_hf import LlavaUhdV2ImageProcessor, LlavaUhdV2Processor
from llava_uhd_v2_hf.model.chat_templates_llava_uhd_v2 import QWEN_CHATML_TEMPLATE
from tests.upstream.transformers_tests.test_processing_common import ProcessorTesterMixin


pytestmark = pytest.mark.slow

TOKENIZER = Path(__file__).parents[1] / "golden/tokenizers/byte_level_qwen_like"


class LlavaUhdV2ProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = LlavaUhdV2Processor

    @classmethod
    def _setup_tokenizer(cls):
        tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
        tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
        return tokenizer

    @classmethod
    def _setup_image_processor(cls):
        return LlavaUhdV2ImageProcessor(slice_resolution=56)

    @staticmethod
    def prepare_processor_dict():
        return {"query_grid": [2, 2], "token_layout": "sequential", "chat_template": QWEN_CHATML_TEMPLATE}
