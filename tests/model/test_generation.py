# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Every way of generating gives the tokens that one sample alone gives, greedily, with the ordinary cache."""

import logging
from importlib.metadata import version
from threading import Thread

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packaging.version import Version
from PIL import Image
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    AutoTokenizer,
    CompileConfig,
    DynamicCache,
    LlamaConfig,
    TextIteratorStreamer,
)

from llava_uhd_v2_hf import (
    LlavaUhdV2Config,
    LlavaUhdV2ForConditionalGeneration,
    LlavaUhdV2ImageProcessor,
    LlavaUhdV2Processor,
)
from llava_uhd_v2_hf.model.modeling_llava_uhd_v2 import CACHE_NAME
from tests.support.models import set_fixed_weights
from tests.support.paths import GOLDEN


ANSWER = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def processor():
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "tokenizers/sentencepiece_llama_like")
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    image_processor = LlavaUhdV2ImageProcessor(slice_resolution=56, patch_size=14)
    return LlavaUhdV2Processor(image_processor, tokenizer, query_grid=(3, 3), image_suffix=" ")


@pytest.fixture(scope="module")
def model(processor):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    config = LlavaUhdV2Config(
        vision_config={"num_hidden_layers": 2, "image_size": 56, "patch_size": 14, **sizes},
        text_config={"num_hidden_layers": 2, "vocab_size": 600, "num_key_value_heads": 2, **sizes, "hidden_size": 64},
        projector_config={"query_grid": [3, 3], "num_attention_heads": 2},
        image_token_id=processor.image_token_id,
        slice_separator_id=44,
    )
    model = LlavaUhdV2ForConditionalGeneration(config).eval()
    set_fixed_weights(model)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model


def picture(width, height):
    """A picture with a different colour everywhere."""
    return Image.linear_gradient("L").resize((width, height)).convert("RGB").rotate(30)


SLICED, PLAIN, TALL = picture(150, 100), picture(50, 40), picture(60, 150)
SAMPLES = {
    "sliced": ("USER: <image>\nWhat is written? ASSISTANT:", [SLICED]),
    "not sliced": ("USER: <image>\nHow many dogs are there? ASSISTANT:", [PLAIN]),
    "two images": ("USER: <image>\n<image>\nWhich one is open? ASSISTANT:", [TALL, PLAIN]),
    "no image": ("USER: Name the capital of France. ASSISTANT:", []),
}


def generate(model, processor, samples, **options):
    """The new tokens of each sample: (samples * sequences a sample, new tokens)."""
    texts, images = [text for text, _ in samples], [images for _, images in samples]
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    output = model.generate(**inputs, **{**ANSWER, **options})
    return output[:, inputs["input_ids"].shape[1] :]


def one_by_one(model, processor, samples, **options):
    return torch.cat([generate(model, processor, [sample], **options) for sample in samples])


@pytest.fixture(scope="module")
def greedy(model, processor):
    """The greedy answer to each sample alone."""
    return {name: generate(model, processor, [sample])[0] for name, sample in SAMPLES.items()}


def test_samples_have_different_answers(greedy):
    assert len({tuple(answer.tolist()) for answer in greedy.values()}) == len(SAMPLES)


@pytest.mark.parametrize(
    "names",
    [
        ["sliced", "not sliced", "two images", "no image"],
        ["no image", "two images", "not sliced", "sliced"],
        ["no image", "sliced"],  # [[], [image]]
        ["sliced", "no image"],  # [[image], []]
        ["no image", "no image"],
    ],
)
def test_mixed_batches_answer_like_their_samples(model, processor, greedy, names):
    together = generate(model, processor, [SAMPLES[name] for name in names])
    for name, answer in zip(names, together, strict=True):
        assert torch.equal(answer, greedy[name]), name


@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"prompt_lookup_num_tokens": 3},
    ],
)
def test_caches_and_prompt_lookup_change_no_token(model, processor, greedy, options):
    for name, sample in SAMPLES.items():
        assert torch.equal(generate(model, processor, [sample], **options)[0], greedy[name]), name


def test_static_cache_answers_a_mixed_batch_too(model, processor, greedy):
    together = generate(model, processor, list(SAMPLES.values()), cache_implementation="static")
    assert torch.equal(together, torch.stack(list(greedy.values())))


def test_text_steps_compile_to_one_graph_for_all_images(model, processor, greedy):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    config = CompileConfig(fullgraph=True, backend=backend, mode=None)
    config._compile_all_devices = True
    for name in SAMPLES:  # the longest first: a static cache is as long as the one before, if that is long enough
        options = {"cache_implementation": "static", "compile_config": config}
        answer = generate(model, processor, [SAMPLES[name]], **options)
        assert torch.equal(answer[0], greedy[name]), name
    assert len(graphs) == 1


@pytest.mark.slow  # compiles an extension of optimum-quanto
def test_quantised_cache_answers_from_the_exact_prompt(model, processor, greedy):
    quantised = {"backend": "quanto", "nbits": 4, "q_group_size": 32, "residual_length": 16}
    for name, sample in SAMPLES.items():
        answer = generate(model, processor, [sample], cache_implementation="quantized", cache_config=quantised)
        assert answer.shape == (1, 6)
        assert answer[0, 0] == greedy[name][0], name  # later tokens read four-bit keys


def test_assisted_decoding_changes_no_token(model, processor, greedy):
    torch.manual_seed(0)
    text = model.config.text_config
    assistant = AutoModelForCausalLM.from_config(LlamaConfig(**{**text.to_dict(), "num_hidden_layers": 1})).eval()
    for name, sample in SAMPLES.items():
        answer = generate(model, processor, [sample], assistant_model=assistant)
        assert torch.equal(answer[0], greedy[name]), name


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
def test_beams_and_several_sequences_equal_their_samples(model, processor, options):
    samples = list(SAMPLES.values())
    together = generate(model, processor, samples, **options)
    assert len(together) == len(samples) * options.get("num_return_sequences", 1)
    assert torch.equal(together, one_by_one(model, processor, samples, **options))


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
def test_processes_that_work_together_answer_as_one_does(model, processor, request, options):
    """There, `forward` encodes the images, which are repeated for the beams."""
    samples = [*SAMPLES.values(), ("USER: <image>\n<image>\nWhich one? ASSISTANT:", [PLAIN, SLICED])]
    expected = generate(model, processor, samples, **options)
    request.getfixturevalue("process_group")
    assert torch.equal(generate(model, processor, samples, **options), expected)


@pytest.mark.parametrize("name", SAMPLES)
def test_states_and_attentions_are_the_language_models(model, processor, greedy, name):
    text, images = SAMPLES[name]
    inputs = processor(text=text, images=images or None, return_tensors="pt")
    model.set_attn_implementation("eager")
    options = {"return_dict_in_generate": True, "output_hidden_states": True, "output_attentions": True}
    try:
        output = model.generate(**inputs, **ANSWER, **options)
    finally:
        model.set_attn_implementation("sdpa")
    length, layers = inputs["input_ids"].shape[1], model.config.text_config.num_hidden_layers
    assert torch.equal(output.sequences[0, length:], greedy[name])
    assert [len(states) for states in output.hidden_states] == [layers + 1] * ANSWER["max_new_tokens"]
    assert output.hidden_states[0][0].shape == (1, length, model.config.text_config.hidden_size)
    assert [len(weights) for weights in output.attentions] == [layers] * ANSWER["max_new_tokens"]
    assert output.attentions[0][0].shape == (1, 2, length, length)


def test_no_images_can_be_none_or_empty(model, processor, greedy):
    inputs = processor(text=SAMPLES["no image"][0], return_tensors="pt")
    empty = {"pixel_values": torch.zeros(0, 16, 3 * 14**2), "image_sizes": torch.zeros(0, 6, dtype=torch.long)}
    for images in ({"pixel_values": None, "image_sizes": None}, empty):
        answer = model.generate(**inputs, **images, **ANSWER)
        assert torch.equal(answer[0, inputs["input_ids"].shape[1] :], greedy["no image"])


def test_sampled_sequences_share_the_images_of_their_sample(model, processor):
    """At a temperature near zero every sampled sequence is the greedy one, so mixed-up images would show."""
    options = {"do_sample": True, "temperature": 1e-4, "num_return_sequences": 3}
    samples = list(SAMPLES.values())
    expected = one_by_one(model, processor, samples).repeat_interleave(3, dim=0)
    assert torch.equal(generate(model, processor, samples, **options), expected)


def test_embeddings_can_stand_for_the_prompt(model, processor, greedy):
    text, images = SAMPLES["sliced"]
    inputs = processor(text=text, images=images, return_tensors="pt")
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    answer = model.generate(inputs_embeds=embeds, **inputs, **ANSWER)
    assert torch.equal(answer[0], greedy["sliced"])


def test_prefill_in_chunks_gives_the_same_answer_or_says_why_not(model, processor, greedy):
    if Version(version("transformers")) >= Version("5.23"):
        for size in (7, 64):
            answer = generate(model, processor, [SAMPLES["sliced"]], prefill_chunk_size=size)
            assert torch.equal(answer[0], greedy["sliced"])
    else:  # drops the images of all chunks but the first
        with pytest.raises(ValueError, match="image tokens"):
            generate(model, processor, [SAMPLES["sliced"]], prefill_chunk_size=7)


def test_streaming_yields_the_same_words(model, processor, greedy):
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    text, images = SAMPLES["two images"]
    inputs = processor(text=text, images=images, return_tensors="pt")
    thread = Thread(target=model.generate, kwargs={**inputs, **ANSWER, "streamer": streamer})
    thread.start()
    words = "".join(streamer)
    thread.join()
    assert words == processor.decode(greedy["two images"])


def test_a_chat_of_several_turns_encodes_each_image_once(model, processor):
    encoded = []
    hook = model.model.visual.register_forward_hook(lambda _, args, __: encoded.append(len(args[0])))
    cache, ids = DynamicCache(config=model.config), torch.empty(1, 0, dtype=torch.long)
    turns = [SAMPLES["sliced"], SAMPLES["no image"], SAMPLES["two images"]]
    for text, images in turns:
        turn = processor(text=text, images=images or None, return_tensors="pt")
        ids = torch.cat([ids, turn.pop("input_ids")], dim=1)
        turn.pop("attention_mask")
        ids = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **{CACHE_NAME: cache}, **turn, **ANSWER
        )
    assert encoded == [1, 2]

    prompts, all_images, expected = [], [], torch.empty(1, 0, dtype=torch.long)
    for text, images in turns:  # the same chat without a cache between its turns
        turn = processor(text=text, images=images or None, return_tensors="pt")
        expected = torch.cat([expected, turn["input_ids"]], dim=1)
        prompts.append(text)
        all_images += images
        vision = processor.image_processor(all_images, return_tensors="pt")
        mask = torch.ones_like(expected)
        expected = model.generate(input_ids=expected, attention_mask=mask, **vision, **ANSWER)
    hook.remove()
    assert torch.equal(ids, expected)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 1500), height=st.integers(1, 1500), max_slices=st.integers(1, 12))
@example(width=20000, height=14, max_slices=6)
@example(width=14, height=20000, max_slices=6)
@example(width=1, height=1, max_slices=1)
@torch.no_grad()
def test_any_image_has_as_many_features_as_tokens(model, processor, width, height, max_slices):
    image = Image.new("RGB", (width, height), (200, 100, 50))
    inputs = processor(text="<image>\nWhat?", images=image, max_slices=max_slices, return_tensors="pt")
    counted = processor._get_num_multimodal_tokens(image_sizes=[(height, width)], max_slices=max_slices)
    tokens = (inputs["input_ids"] == processor.image_token_id).sum()
    outputs = model(**inputs)
    assert counted.num_image_tokens == [tokens] == [len(torch.cat(outputs.image_outputs.pooler_output))]
    assert inputs["image_sizes"][0, 2:].remainder(14).eq(0).all()
    assert outputs.logits.isfinite().all()


def test_a_batch_padded_on_the_right_is_warned_about(model, processor, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    image = Image.linear_gradient("L").resize((56, 56))
    for side in ("left", "right"):
        inputs = processor(
            [image, image], ["<image>", "<image> What is this?"], padding=True, padding_side=side, return_tensors="pt"
        )
        caplog.clear()
        model.generate(**inputs, max_new_tokens=1)
        warned = any("right-padding was detected" in record.getMessage() for record in caplog.records)
        assert warned == (side == "right")
