# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache, TextStreamer

from llava_uhd_v2_hf import LlavaUhdV2Model
from llava_uhd_v2_hf.inference.chat import Chat


QUESTIONS = ["What is this?", "And beside it?", "Is it large? Say how large."]
IMAGES = [
    Image.effect_mandelbrot((640, 420), (-2, -1.2, 1, 1.2), 100).convert("RGB"),
    Image.linear_gradient("L").convert("RGB"),
]


@pytest.fixture(scope="module")
def model_and_processor(converted_checkpoint):
    """The converted checkpoint, made to know the words of its toy tokenizer and to speak no others."""
    model = AutoModelForImageTextToText.from_pretrained(converted_checkpoint, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        for weight in (model.get_input_embeddings().weight, model.lm_head.weight):
            weight[260:520] = torch.randn(260, weight.shape[1], generator=generator)
    return model, AutoProcessor.from_pretrained(converted_checkpoint)


@pytest.fixture
def calls(monkeypatch):
    """Number of images of each call that encodes images."""
    numbers = []
    encode = LlavaUhdV2Model.get_image_features

    def record(self, pixel_values, image_sizes, **kwargs):
        numbers.append(len(image_sizes))
        return encode(self, pixel_values, image_sizes, **kwargs)

    monkeypatch.setattr(LlavaUhdV2Model, "get_image_features", record)
    return numbers


def answers_without_cache(model, processor, images, turns=3):
    """Every turn by a chat that has only the messages of the turns before it."""
    messages, answers = [], []
    for question in QUESTIONS[:turns]:
        chat = Chat(model, processor, images)
        chat.messages = messages
        answers.append(chat.ask(question, max_new_tokens=4))
        messages = chat.messages
    return answers


@pytest.mark.parametrize("images", [[], IMAGES], ids=["none", "two"])
def test_answers_are_those_without_a_cache_and_images_are_encoded_once(model_and_processor, calls, images):
    expected = answers_without_cache(*model_and_processor, images)
    assert len(set(expected)) > 1

    calls.clear()
    chat = Chat(*model_and_processor, images)
    assert [chat.ask(question, max_new_tokens=4) for question in QUESTIONS] == expected
    assert calls == ([len(images)] if images else [])
    # what is cached is the rendered conversation, without the last token of the last answer
    assert chat.cache.get_seq_length() == len(chat.cached_ids)


def test_only_new_tokens_are_read(model_and_processor):
    model, processor = model_and_processor
    lengths = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    chat = Chat(model, processor, IMAGES[:1])
    try:
        for question in QUESTIONS:
            chat.ask(question, max_new_tokens=3)
    finally:
        handle.remove()
    prefills = [length for length in lengths if length > 1]
    assert prefills[0] > 144 and len(prefills) == len(QUESTIONS)
    assert max(prefills[1:]) < 80


def test_a_cache_that_cannot_be_cut_is_built_again(model_and_processor, calls, monkeypatch):
    expected = answers_without_cache(*model_and_processor, IMAGES[:1], turns=2)

    def refuse(self, length):
        raise RuntimeError("this cache can't be cut")

    chat = Chat(*model_and_processor, IMAGES[:1])
    first = chat.ask(QUESTIONS[0], max_new_tokens=4)
    calls.clear()
    monkeypatch.setattr(DynamicCache, "crop", refuse)
    chat.cached_ids[-1] = 0  # the last answer's text is read as other tokens
    assert [first, chat.ask(QUESTIONS[1], max_new_tokens=4)] == expected
    assert calls == [1]


def test_a_turn_that_failed_can_be_asked_again(model_and_processor):
    expected = answers_without_cache(*model_and_processor, IMAGES[:1], turns=2)

    class Interruption(TextStreamer):
        def put(self, value):
            raise KeyboardInterrupt

    chat = Chat(*model_and_processor, IMAGES[:1])
    first = chat.ask(QUESTIONS[0], max_new_tokens=4)
    with pytest.raises(KeyboardInterrupt):
        chat.ask(QUESTIONS[1], max_new_tokens=4, streamer=Interruption(model_and_processor[1].tokenizer))
    assert [first, chat.ask(QUESTIONS[1], max_new_tokens=4)] == expected


def test_what_differs_before_the_image_is_read_again(model_and_processor, calls):
    expected = answers_without_cache(*model_and_processor, IMAGES[:1], turns=2)
    chat = Chat(*model_and_processor, IMAGES[:1])
    chat.ask(QUESTIONS[0], max_new_tokens=4)
    chat.cached_ids[5] = 0  # something before the image differs
    assert chat.ask(QUESTIONS[1], max_new_tokens=4) == expected[1]
    assert calls[-2:] == [1, 1]


def test_max_slices_reaches_every_turn(model_and_processor):
    chat = Chat(*model_and_processor, IMAGES[:1], max_slices=1)
    for question in QUESTIONS[:2]:
        chat.ask(question, max_new_tokens=1)
    image_token_id = model_and_processor[1].image_token_id
    assert int((chat.cached_ids == image_token_id).sum()) == 144
