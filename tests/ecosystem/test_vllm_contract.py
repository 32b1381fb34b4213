# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What vLLM's Transformers back end asks of model and processor, in the steps that it takes.

test_vllm.py runs vLLM itself, in an environment of its own.

More of it is tested where it belongs: the base class in the `auto_map` in tests/hub/test_export.py, layers of other
classes in tests/model/test_fast_order.py, counts of tokens in tests/model/test_processing.py.
"""

import functools
from collections import defaultdict
from typing import get_type_hints

import pytest
import torch
from accelerate import init_empty_weights
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import AttentionInterface, AutoConfig, AutoModel, AutoProcessor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from llava_uhd_v2_hf import LlavaUhdV2Model, LlavaUhdV2Processor
from llava_uhd_v2_hf.model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessorKwargs
from llava_uhd_v2_hf.model.processing_llava_uhd_v2 import LlavaUhdV2ProcessorCallKwargs
from tests.ecosystem.pipeline_answers import SMALL, TALL, WIDE


IMAGES = [WIDE, SMALL, TALL]


class ForeignLinear(nn.Module):
    """A layer that isn't `nn.Linear`, as vLLM puts one in the place of each; its product reads no strides."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, states):
        assert states.stride(-1) == 1
        return nn.functional.linear(states, self.weight, self.bias)


def attend(module, query, key, value, attention_mask, scaling=None, attention_instances=None, **kwargs):
    """Finds its layer among the `attention_instances` that the model was called with, and needs no mask."""
    attention_instances[module.layer_idx].append(module)
    return sdpa_attention_forward(module, query, key, value, None, scaling=scaling, is_causal=True)


AttentionInterface.register("as_in_vllm", attend)


@functools.cache
def load_processor(folder):
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture
def processor(tiny_checkpoint):
    return load_processor(tiny_checkpoint)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return AutoModel.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def served(tiny_checkpoint):
    """The base model in vLLM's steps: made without weights, then its layers replaced, then filled by name."""
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    config.text_config._attn_implementation = "as_in_vllm"
    with init_empty_weights(include_buffers=False):
        model = AutoModel.from_config(config, dtype=torch.float32)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in linears:
        model.set_submodule(name, ForeignLinear(model.get_submodule(name)))
    weights = load_file(tiny_checkpoint / "model.safetensors")
    weights = {name.removeprefix("model."): x for name, x in weights.items() if name.startswith("model.")}
    model.load_state_dict(weights, assign=True)
    return model.eval()


@pytest.fixture
def process_group():
    """vLLM has one, also with a single GPU."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def process(processor, images, **options):
    """A prompt that is nothing but images, as vLLM has it processed to keep each image by itself."""
    text = processor.image_token * len(images)
    return processor(images=images, text=text, return_tensors="pt", return_text_replacement_offsets=True, **options)


def replacements_of(processor, out):
    """Token ids of each image."""
    [offsets] = out["text_replacement_offsets"]
    assert [entry["type"] for entry in offsets] == ["image"] * len(out["image_sizes"])
    return [processor.tokenizer.encode(entry["replacement"], add_special_tokens=False) for entry in offsets]


def features_of(model, pixel_values, image_sizes):
    with torch.no_grad():
        return list(model.get_image_features(pixel_values, image_sizes=image_sizes).pooler_output)


@pytest.mark.slow
@given(height=st.integers(1, 100).map(lambda side: side**2), width=st.integers(1, 100).map(lambda side: side**2))
@example(height=10_000, width=10_000)  # with which vLLM measures its memory
@example(height=10_000, width=1)
@example(height=1, width=10_000)
@settings(max_examples=15, deadline=None)
def test_counts_are_what_the_processor_makes(tiny_checkpoint, height, width):
    processor = load_processor(tiny_checkpoint)
    counted = processor._get_num_multimodal_tokens(image_sizes=[(height, width), (60, 40)])
    images = [Image.new("RGB", (width, height), 255), Image.new("RGB", (40, 60))]
    out = process(processor, images, return_mm_token_type_ids=True)
    assert (out["input_ids"] == processor.image_token_id).sum() == sum(counted["num_image_tokens"])
    assert torch.as_tensor(out["mm_token_type_ids"]).sum() == sum(counted["num_image_tokens"])
    assert [len(ids) for ids in replacements_of(processor, out)] == counted["num_image_tokens"]
    assert counted["num_image_patches"] == [1, 1]
    assert len(out["pixel_values"]) == len(out["image_sizes"]) == sum(counted["num_image_patches"])


def test_counts_follow_the_options_of_the_processor(processor):
    image = Image.new("RGB", (300, 200))
    for options in ({"max_slices": 2}, {"max_image_pixels": None}):  # `mm_processor_kwargs` goes to both
        [count] = processor._get_num_multimodal_tokens(image_sizes=[(200, 300)], **options)["num_image_tokens"]
        ids = processor(images=image, text="<image>", **options)["input_ids"][0]
        assert ids.count(processor.image_token_id) == count


@pytest.mark.parametrize("suffix", ["", " "])
def test_images_are_put_into_prompts_that_were_tokenised_before(processor, suffix):
    own = processor.chat_template
    template = own.replace(r"<image>\n", rf"<image>{suffix}\n")
    assert template.count(rf"<image>{suffix}\n") == 2
    processor = LlavaUhdV2Processor(processor.image_processor, processor.tokenizer, (2, 2), image_suffix=suffix)
    replacements = replacements_of(processor, process(processor, IMAGES))
    assert all(set(ids) == {processor.image_token_id} for ids in replacements)
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": "A fractal."},
        {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "And these?"}]},
    ]
    prompt = processor.apply_chat_template(chat, template, add_generation_prompt=True)
    ids, left = [], iter(replacements)
    for token in processor.tokenizer.encode(prompt, add_special_tokens=False):
        ids += next(left) if token == processor.image_token_id else [token]
    expected = processor.apply_chat_template(chat, own, add_generation_prompt=True)
    assert ids == processor(images=IMAGES, text=expected)["input_ids"][0]


def test_images_are_encoded_alike_however_their_rows_are_joined(model, processor):
    out = process(processor, IMAGES)
    assert isinstance(out["image_sizes"], torch.Tensor) and isinstance(out["pixel_values"], torch.Tensor)
    rows, plans = list(out["pixel_values"]), out["image_sizes"].split(1)
    alone = [process(processor, [image]) for image in IMAGES]
    [short] = alone[2]["pixel_values"]
    assert len(short) < len(rows[2])
    expected = []
    for each, ids in zip(alone, replacements_of(processor, out)):
        [features] = features_of(model, each["pixel_values"], each["image_sizes"])
        assert features.shape == (len(ids), model.config.text_config.hidden_size)
        expected.append(features)

    ways = {
        "together": (out["pixel_values"], [0, 1, 2]),
        "one by one": (out["pixel_values"][1:2], [1]),
        "in a list": ([short, rows[0]], [2, 0]),
        "padded": (nn.utils.rnn.pad_sequence([short, rows[0]], batch_first=True), [2, 0]),
    }
    for way, (pixel_values, order) in ways.items():
        features = features_of(model, pixel_values, torch.cat([plans[index] for index in order]))
        for each, index in zip(features, order, strict=True):
            torch.testing.assert_close(each, expected[index], msg=way)


def test_the_text_model_runs_on_attention_from_outside(model, served, processor, process_group):
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    inputs = processor(images=WIDE, text=processor.apply_chat_template(chat), return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        embeddings = served.get_input_embeddings()(inputs["input_ids"])
        [features] = features_of(served, inputs["pixel_values"], inputs["image_sizes"])
        embeddings[inputs["input_ids"] == processor.image_token_id] = features

        instances, encoded = defaultdict(list), []
        handle = served.visual.register_forward_hook(lambda *_: encoded.append(1))
        hidden = served(
            input_ids=None,
            inputs_embeds=embeddings,
            use_cache=False,
            position_ids=torch.arange(embeddings.shape[1])[None],
            attention_instances=instances,
            return_dict=False,
        )[0]
        handle.remove()
    torch.testing.assert_close(hidden, expected)
    layers = [layer.self_attn for layer in served.language_model.layers]
    assert instances == {index: [layer] for index, layer in enumerate(layers)}
    assert not encoded, "a step of the text model encoded an image"


def test_parts_are_found(served):
    assert LlavaUhdV2Model._supports_attention_backend
    assert served.get_decoder() is served.language_model
    assert served.get_encoder(modality="image") is served.visual
    assert served.base_model_prefix == "model"


def test_type_hints_of_the_processors_arguments():
    """vLLM looks them up to find out which arguments a processor takes."""
    for arguments in (LlavaUhdV2ProcessorCallKwargs, LlavaUhdV2ImageProcessorKwargs):
        assert "max_slices" in get_type_hints(arguments)
