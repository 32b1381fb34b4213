# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Models whose projector is adapted, merged or quantised by other libraries: always the numbers of the plain order."""

import copy
import os
import subprocess
import sys
from functools import partial
from unittest.mock import patch

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import ModulesToSaveWrapper
from transformers import BitsAndBytesConfig

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration
from llava_uhd_v2_hf.model import modeling_llava_uhd_v2 as modeling_module
from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan
from tests.support.environments import beside_the_environment
from tests.support.models import set_fixed_weights
from tests.support.paths import ROOT


PLAN = SlicePlan((1, 2), (56, 70), (42, 70))
ADAPTED = r".*(language_model.*[qv]_proj|window_attention\.(key|value|output)|level_projections\.\d|fixups\.\d)"


@pytest.fixture
def model():
    """Layers of a width at which the reordered form pays."""
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = LlavaUhdV2Config(
        vision_config={"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, **sizes},
        text_config={"model_type": "llama", "vocab_size": 320, "num_key_value_heads": 2, **sizes, "hidden_size": 512},
        projector_config={"query_grid": [3, 3], "num_attention_heads": 2},
        image_token_id=300,
        row_separator_id=13,
        slice_separator_id=44,
    )
    model = LlavaUhdV2ForConditionalGeneration(config).eval()
    set_fixed_weights(model)
    return model


def projector_of(model):
    [projector] = [module for module in model.modules() if type(module) is projector_module.LlavaUhdV2Projector]
    return projector


@torch.no_grad()
def image_tokens(model, **options):
    """Tokens of an image of three views, and how often the other order ran."""
    projector, calls = projector_of(model), []
    torch.manual_seed(1)
    pixels = torch.randn(1, PLAN.num_patches(14), 3 * 14 * 14)
    sizes = torch.tensor([PLAN.to_image_size()])
    original = projector_module.project_views
    counted = patch.object(projector_module, "project_views", lambda *args: calls.append(1) or original(*args))
    call = partial(type(projector).forward, projector, **options)
    with counted, patch.object(projector, "forward", call):
        [tokens] = model.get_image_features(pixels, sizes).pooler_output
    return tokens, len(calls)


def assert_equals_plain_order(model, reordered, tolerance=1e-4):
    tokens, calls = image_tokens(model)
    torch.testing.assert_close(tokens, image_tokens(model, plain=True)[0], rtol=tolerance, atol=tolerance)
    assert bool(calls) == reordered
    return tokens


@pytest.mark.parametrize("folded", [False, True])
def test_adapters_merged_unmerged_and_unloaded(model, folded):
    if folded:
        model.fold_projector()
    before = assert_equals_plain_order(model, reordered=True)
    adapted = get_peft_model(model, LoraConfig(target_modules=ADAPTED, r=2, init_lora_weights=False)).eval()
    changed = assert_equals_plain_order(adapted, reordered=False)
    assert (changed - before).abs().max() > 0.01

    adapted.merge_adapter()
    torch.testing.assert_close(assert_equals_plain_order(adapted, reordered=False), changed, rtol=1e-3, atol=1e-3)
    adapted.unmerge_adapter()
    torch.testing.assert_close(assert_equals_plain_order(adapted, reordered=False), changed, rtol=1e-3, atol=1e-3)
    with adapted.disable_adapter():
        torch.testing.assert_close(assert_equals_plain_order(adapted, False), before, rtol=1e-3, atol=1e-3)

    merged = adapted.merge_and_unload()
    torch.testing.assert_close(assert_equals_plain_order(merged, reordered=True), changed, rtol=1e-3, atol=1e-3)
    merged.fold_projector()
    torch.testing.assert_close(assert_equals_plain_order(merged, reordered=True), changed, rtol=1e-3, atol=1e-3)


def test_a_projector_in_modules_to_save_is_the_trained_one(model):
    """PEFT puts the trained copy beside the original."""
    config = LoraConfig(target_modules=r".*language_model.*q_proj", modules_to_save=["projector"])
    adapted = get_peft_model(copy.deepcopy(model), config).eval()
    wrapper = next(module for module in adapted.modules() if isinstance(module, ModulesToSaveWrapper))
    trained = wrapper.modules_to_save["default"]
    trained.window_attention.value.weight.data += 0.1
    model.model.visual.projector.load_state_dict(trained.state_dict())
    pixels, sizes = torch.randn(1, PLAN.num_patches(14), 588), torch.tensor([PLAN.to_image_size()])
    with torch.no_grad():
        [got] = adapted.get_image_features(pixels, sizes).pooler_output
        [expected] = model.get_image_features(pixels, sizes).pooler_output
    torch.testing.assert_close(got, expected)


def int8_by_bitsandbytes():
    # 0: on a CPU bitsandbytes 0.50 fails where it splits outliers off an input of four dimensions
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)


@pytest.mark.parametrize(
    "quantisation", [int8_by_bitsandbytes, partial(BitsAndBytesConfig, load_in_4bit=True)], ids=["int8", "nf4"]
)
def test_layers_quantised_by_bitsandbytes_are_called(model, tmp_path, quantisation):
    check_quantised_layers_are_called(model, tmp_path, quantisation())


def test_layers_quantised_by_torchao_are_called():
    """In a process of its own, with torchao from a folder beside the environment's packages."""
    path = os.pathsep.join([beside_the_environment("torchao"), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        ROOT / "tests/support/torchao_layers.py",
    ]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert result.returncode == 0 and "1 passed" in result.stdout, result.stdout


def check_quantised_layers_are_called(model, tmp_path, quantisation):
    before = image_tokens(model)[0]
    model.save_pretrained(tmp_path)
    # by default quantisers leave the projector alone
    with patch.object(modeling_module, "UNQUANTISED", "nothing"):
        quantised = LlavaUhdV2ForConditionalGeneration.from_pretrained(
            tmp_path, quantization_config=quantisation, device_map="cpu"
        ).eval()
    value = projector_of(quantised).window_attention.value
    assert type(value) is not torch.nn.Linear or type(value.weight) is not torch.nn.Parameter
    rounds = getattr(quantisation, "load_in_4bit", False)  # on some CPUs to bfloat16, before it multiplies
    tokens = assert_equals_plain_order(quantised, reordered=False, tolerance=0.02 if rounds else 1e-4)
    error = (tokens - before).square().mean().sqrt() / before.square().mean().sqrt()
    assert 0 < error < 1
    with pytest.raises(ValueError, match="can't be folded: wrapped by LoRA, quantised"):
        quantised.fold_projector()
