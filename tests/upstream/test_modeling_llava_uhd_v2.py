# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' common model tests, run against our models."""

import unittest
from unittest.mock import patch

import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers.testing_utils import set_config_for_less_flaky_test

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration, LlavaUhdV2Model
from llava_uhd_v2_hf.model.vision_llava_uhd_v2 import LlavaUhdV2VisionEncoder
from tests.upstream.transformers_tests import test_modeling_common
from tests.upstream.transformers_tests.generation.test_utils import GenerationTesterMixin
from tests.upstream.transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor


pytestmark = pytest.mark.slow

PATCH_SIZE = 4
# Images of 1x2 slices, so all have 15 tokens (2 lines of 2 * 2 + 1, a separator, 4 of the overview), but of different
# sizes: 16, 10 and 12 patches. Seven, because the comparison of eager and sdpa fills smaller batches with noise.
IMAGE_SIZES = ([[1, 2, 8, 8, 8, 16], [1, 2, 4, 12, 8, 8], [1, 2, 8, 4, 8, 16]] * 3)[:7]
MAX_PATCHES = 16
NUM_IMAGE_TOKENS = 15

LLAMA = {"model_type": "llama"}
# With experts, rotary positions in a part of the channels, and buffers that stay in float32.
GLM4_MOE = {
    "model_type": "glm4_moe",
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "head_dim": 16,
}
# The tests that have nothing to test with Llama.
TESTS_WITH_GLM4_MOE = (
    "test_keep_in_fp32_modules",
    "test_keep_in_fp32_modules_exist",
    "test_model_rope_with_partial_rotation",
    "test_reverse_loading_mapping",
)


def words_only(shape: list[int], vocab_size: int, *args, **kwargs) -> torch.Tensor:
    """As transformers' `ids_tensor`, without image tokens: a prompt with some of them and no image is an error."""
    words = ids_tensor(shape, vocab_size, *args, **kwargs)
    return words.masked_fill(words == LlavaUhdV2ModelTester.image_token_id, LlavaUhdV2ModelTester.image_token_id + 1)


class LlavaUhdV2ModelTester:
    """What the common tests ask for: a tiny config, and inputs of one image and some text a sample."""

    batch_size = len(IMAGE_SIZES)
    seq_length = NUM_IMAGE_TOKENS + 7
    is_training = True
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 2
    image_token_id = 5

    def __init__(self, text: dict):
        self.text = text

    def get_config(self) -> LlavaUhdV2Config:
        return LlavaUhdV2Config(
            vision_config={
                "model_type": "clip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 37,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 8,
                "patch_size": PATCH_SIZE,
                "projection_dim": 32,
            },
            text_config={
                "vocab_size": self.vocab_size,
                "hidden_size": self.hidden_size,
                "intermediate_size": 37,
                "num_hidden_layers": self.num_hidden_layers,
                "num_attention_heads": self.num_attention_heads,
                "num_key_value_heads": 2,
                "max_position_embeddings": 512,
                "pad_token_id": 0,
                **self.text,
            },
            projector_config={"query_grid": [2, 2], "num_attention_heads": 2},
            image_token_id=self.image_token_id,
            row_separator_id=6,
            slice_separator_id=7,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[LlavaUhdV2Config, dict[str, torch.Tensor]]:
        input_ids = words_only([self.batch_size, self.seq_length], self.vocab_size)
        input_ids[:, 1 : 1 + NUM_IMAGE_TOKENS] = self.image_token_id
        inputs = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "pixel_values": floats_tensor([self.batch_size, MAX_PATCHES, 3 * PATCH_SIZE**2]),
            "image_sizes": torch.tensor(IMAGE_SIZES),
        }
        return self.get_config(), inputs


class LlavaUhdV2ModelTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (LlavaUhdV2Model, LlavaUhdV2ForConditionalGeneration)
    additional_model_inputs = ["pixel_values", "image_sizes"]
    _is_composite = True
    test_all_params_have_gradient = False  # the tower's last layer never runs

    def setUp(self):
        self.model_tester = LlavaUhdV2ModelTester(GLM4_MOE if self._testMethodName in TESTS_WITH_GLM4_MOE else LLAMA)
        # The tests tell from these names what kind of model a class is, and so whether it takes labels.
        self.enterContext(patch.dict(MODEL_MAPPING_NAMES, {"llava_uhd_v2": "LlavaUhdV2Model"}))
        generative = {"llava_uhd_v2": "LlavaUhdV2ForConditionalGeneration"}
        self.enterContext(patch.dict(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, generative))
        self.enterContext(patch.object(test_modeling_common, "ids_tensor", words_only))
        self.enterContext(patch.object(test_modeling_common, "set_config_for_less_flaky_test", soften_norms))

    def _image_features_get_expected_num_attentions(self, model_tester=None):
        """The tower's layers up to the one that is read; the last doesn't run."""
        return 1

    def test_can_init_all_missing_weights(self):
        """transformers takes classes from outside for code that fills weights without its own functions.

        It then passes over modules without weights of their own (modeling_utils.py:2371), such as CLIP's attention,
        which gives its projections their standard deviation. Our `_init_weights` does use these functions.
        """
        self.enterContext(patch.object(PreTrainedModel, "is_custom_code", classmethod(lambda cls: False)))
        super().test_can_init_all_missing_weights()

    def test_sdpa_can_dispatch_composite_models(self):
        """The test asks `visual` for its config; ours is no model itself, so its tower answers."""
        for name in ("config", "_supports_sdpa"):
            answer = property(lambda encoder, name=name: getattr(encoder.vision_tower, name))
            self.enterContext(patch.object(LlavaUhdV2VisionEncoder, name, answer, create=True))
        super().test_sdpa_can_dispatch_composite_models()


def soften_norms(config: LlavaUhdV2Config):
    """As transformers' function, which sets every name of an epsilon it knows; our config takes no unknown keys."""
    known = set(vars(config))
    set_config_for_less_flaky_test(config)
    for name in set(vars(config)) - known:
        delattr(config, name)
