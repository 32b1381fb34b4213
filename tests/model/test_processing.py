# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Processor and chat templates: token ids, prompts and supervised tokens of the released code."""

import base64
import copy
import functools
import json

import jinja2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from sentencepiece import SentencePieceProcessor
from transformers import AddedToken, AutoTokenizer

from llava_uhd_v2_hf.model.chat_templates_llava_uhd_v2 import (
    VICUNA_V1_TEMPLATE,
)
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan, num_image_tokens
from llava_uhd_v2_hf.model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from llava_uhd_v2_hf.model.processing_llava_uhd_v2 import LlavaUhdV2Processor
from tests.support.paths import ROOT
from tests.support.recorded_formats import BYTE_LEVEL, FORMATS, SENTENCEPIECE, build_processor, collapse


ROLES = {"human": "user", "gpt": "assistant"}


@pytest.fixture(scope="module")
def prompts(reference):
    return json.loads((reference / "prompts.json").read_text())


@pytest.fixture(scope="module", params=["fresh", "reloaded"])
def processors(request, reference, tmp_path_factory):
    """A processor for every recorded format, as built and as loaded again from its files."""
    built = {}
    for name in FORMATS:
        processor = build_processor(reference, name)
        if request.param == "reloaded":
            folder = tmp_path_factory.mktemp(name)
            processor.save_pretrained(folder)
            processor = LlavaUhdV2Processor.from_pretrained(folder)
        built[name] = processor
    return built


@pytest.fixture
def vicuna(processors):
    return processors["v1"]


@pytest.fixture
def picture():
    """An image small enough not to be sliced: 144 tokens."""
    return Image.linear_gradient("L").resize((60, 40))


def as_messages(conversation):
    return [{"role": ROLES[role], "content": text} for role, text in conversation]


def as_list_content(conversation, image):
    """The same conversation with the image as an entry of its own, behind the text."""
    messages = []
    for message in as_messages(conversation):
        content = [{"type": "text", "text": message["content"].replace("<image>", "").strip()}]
        if "<image>" in message["content"]:
            content.append({"type": "image", "image": image})
        messages.append({**message, "content": content})
    return messages


def recorded_cases(prompts, *formats):
    cases = [(name, case) for name in formats for case in prompts["training"][name].values()]
    assert cases
    return cases


def test_token_ids_are_the_recorded_ones(prompts, processors, picture):
    for name, case in recorded_cases(prompts, *FORMATS):
        processor = processors[name]
        prompt = processor.apply_chat_template(as_messages(case["messages"]))
        images = [picture] * prompt.count("<image>")
        ids = processor(images=images, text=prompt)["input_ids"][0]
        assert collapse(processor, ids)[0] == case["input_ids"], (name, prompt)
        assert ids.count(processor.image_token_id) == 144 * len(images)


def test_prompts_are_the_recorded_ones(prompts, processors, picture):
    for name, recorded, bos in (("v1", "v1", "<s> "), ("v1", "vicuna_v1", "<s> "), ("qwen_1_5", "qwen_1_5", "")):
        assert prompts["prompts"][recorded]
        for case in prompts["prompts"][recorded].values():
            for render in (as_messages, lambda messages: as_list_content(messages, picture)):
                messages = render(case["messages"])
                assert processors[name].apply_chat_template(messages) == bos + case["full"]
                prompt = processors[name].apply_chat_template(messages[:-1], add_generation_prompt=True)
                assert prompt == bos + case["generation_prompt"]


def test_supervised_tokens_are_the_recorded_ones(prompts, processors, picture):
    for name, case in recorded_cases(prompts, "v1", "plain", "plain_with_byte_level_tokenizer"):
        processor = processors[name]
        out = processor.apply_chat_template(
            as_list_content(case["messages"], picture),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            return_tensors="pt",
        )
        ids, kept = collapse(processor, out["input_ids"][0].tolist())
        assert ids == case["input_ids"]
        mask = [bool(out["assistant_masks"][0][position]) for position in kept]
        assert mask == [label != -100 for label in case["labels"]]
        assert torch.as_tensor(out["assistant_masks"])[out["input_ids"] == processor.image_token_id].sum() == 0


def test_chatml_supervises_the_answers_and_their_end_tokens(prompts, processors, picture):
    for _, case in recorded_cases(prompts, "qwen_1_5"):
        processor = processors["qwen_1_5"]
        out = processor.apply_chat_template(
            as_list_content(case["messages"], picture),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        masked = [token for token, on in zip(out["input_ids"][0], out["assistant_masks"][0], strict=True) if on]
        answers = [text + "<|im_end|>" for role, text in case["messages"] if role == "gpt"]
        assert processor.tokenizer.decode(masked) == "".join(answers)


def test_templates_place_images(processors):
    image, text = {"type": "image"}, {"type": "text", "text": " first "}
    other = {"type": "text", "text": "second"}
    wanted = {
        "<image>\nfirst second": [text, image, other],
        "<image>": [image],
        " first <image>\nsecond<image>\n": [text, image, other, image],
        " first second": [text, other],
    }
    for rendered, content in wanted.items():
        prompt = processors["qwen_1_5"].apply_chat_template([{"role": "user", "content": content}])
        assert prompt.endswith(f"<|im_start|>user\n{rendered}<|im_end|>\n")


def test_a_system_message_replaces_the_default(processors):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert processors["v1"].apply_chat_template(messages) == "<s> Be brief. USER: Hi "
    assert processors["qwen_1_5"].apply_chat_template(messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )


def test_a_prompt_has_one_bos_token_whoever_tokenises_it(vicuna, picture):
    question = "A chat. USER: <image>\nWhat? ASSISTANT:"
    expected = vicuna(images=picture, text=question)["input_ids"]
    prompt = f"{vicuna.tokenizer.bos_token} {question}"
    for options in ({}, {"add_special_tokens": False}, {"text_kwargs": {"add_special_tokens": False}}):
        assert vicuna(images=picture, text=prompt, **options)["input_ids"] == expected
    assert vicuna(images=picture, text=prompt, add_special_tokens=True)["input_ids"][0][:2] == [1, 1]
    messages, form = [{"role": "user", "content": "What?"}], {"tokenize": True, "return_dict": True}
    of_tokenizer = vicuna.tokenizer.apply_chat_template(messages, chat_template=vicuna.chat_template, **form)
    assert of_tokenizer["input_ids"] == vicuna.apply_chat_template(messages, **form)["input_ids"][0]


@pytest.mark.parametrize("name", ["v1", "qwen_1_5", "plain", "nano"])
def test_templates_refuse_what_they_cannot_render(processors, name):
    if name == "nano":
        template = (ROOT / "examples/nano/chat_template.jinja").read_text()
        assert template == (ROOT / "examples/nano/checkpoint/chat_template.jinja").read_text()
        processors = {name: copy.copy(processors["v1"])}
        processors[name].chat_template = template
    with pytest.raises(jinja2.TemplateError, match="'tool'"):
        processors[name].apply_chat_template([{"role": "tool", "content": "x"}])
    for beside in ([], [{"type": "image"}], [{"type": "image"}, {"type": "image"}]):
        content = [*beside, {"type": "text", "text": "What?"}, {"type": "video"}]
        with pytest.raises(jinja2.TemplateError, match="'video'"):
            processors[name].apply_chat_template([{"role": "user", "content": content}])


def test_what_the_model_cannot_read_is_refused(processors):
    with pytest.raises(ValueError, match="leave `videos` out"):
        processors["v1"](text="What?", videos=[np.zeros((2, 3, 28, 28), dtype=np.uint8)])
    with pytest.raises(ValueError, match="Text 1 is a NoneType"):
        processors["v1"](text=["What?", None])


def test_plain_template_keeps_the_image_alone(processors):
    user = {"role": "user", "content": "Write a summary.\n<image>"}
    answer = {"role": "assistant", "content": "a boat"}
    plain = processors["plain"]
    assert plain.apply_chat_template([user, answer]) == "<s><image>a boat\n"
    assert plain.apply_chat_template([user], add_generation_prompt=True) == "<s><image>"
    with pytest.raises(jinja2.TemplateError, match="one user message"):
        plain.apply_chat_template([user, answer, user])
    with pytest.raises(jinja2.TemplateError, match="needs an image"):
        plain.apply_chat_template([{"role": "user", "content": "Hi"}])


def test_each_piece_of_text_has_its_own_leading_space(vicuna, picture, reference):
    """The released code tokenises the pieces of text between images apart, with sentencepiece itself."""
    model_file = reference / "tokenizers" / SENTENCEPIECE / "tokenizer.model"
    sentencepiece = SentencePieceProcessor(model_file=str(model_file))
    for pieces in (["", "", " a", ""], ["See ", "\n", "\nWhat", "  "], ["", "a", "", "b"], ["x", " "]):
        expected = [vicuna.tokenizer.bos_token_id, *sentencepiece.encode(pieces[0])]
        for piece in pieces[1:]:
            expected += [vicuna.image_token_id] * 144 + sentencepiece.encode(piece)
        ids = vicuna(images=[picture] * (len(pieces) - 1), text="<image>".join(pieces))["input_ids"][0]
        assert ids == expected, pieces


@pytest.mark.parametrize(("layout", "expected"), [("spatial", 24 * 37 + 1 + 144), ("sequential", 145 * 6 + 144)])
def test_an_image_takes_its_tokens_and_separators(vicuna, layout, expected):
    processor = LlavaUhdV2Processor(vicuna.image_processor, vicuna.tokenizer, token_layout=layout, image_suffix=" ")
    image = Image.new("RGB", (1008, 672))  # two rows of three slices
    out = processor(images=image, text="<image>\nWhat?", return_tensors="pt")
    assert out["image_sizes"].tolist() == [[2, 3, 336, 336, 266, 406]]
    assert (out["input_ids"] == processor.image_token_id).sum() == expected

    sizes = [(672, 1008), (40, 60), (2000, 300)]
    counted = processor._get_num_multimodal_tokens(image_sizes=sizes)
    assert counted.num_image_patches == [1, 1, 1]
    assert counted.num_image_tokens[0] == expected
    fewer = processor._get_num_multimodal_tokens(image_sizes=sizes, max_slices=1)
    assert fewer.num_image_tokens == [144, 144, 144]
    assert processor._get_num_multimodal_tokens() == type(counted)()
    for (height, width), tokens in zip(sizes, counted.num_image_tokens, strict=True):
        ids = processor(images=Image.new("RGB", (width, height)), text="<image>")["input_ids"][0]
        assert ids.count(processor.image_token_id) == tokens


def test_settings_of_a_call_reach_images_and_tokens(vicuna):
    image = Image.new("RGB", (1008, 672))
    out = vicuna(images=image, text="<image>", max_slices=1, return_tensors="pt")
    assert out["image_sizes"].tolist() == [[0, 0, 0, 0, 266, 406]]
    assert (out["input_ids"] == vicuna.image_token_id).sum() == 144
    nested = vicuna(images=image, text="<image>", images_kwargs={"max_slices": 1}, return_tensors="pt")
    assert torch.equal(nested["input_ids"], out["input_ids"])


@pytest.mark.parametrize("side_of_file", [None, "right", "left"])
def test_batches_are_padded_on_the_left_whatever_the_files_say(vicuna, tmp_path, side_of_file):
    def masks(processor, **options):
        return processor(text=["What?", "What is this?"], padding=True, **options)["attention_mask"][0]

    vicuna.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = {key: value for key, value in json.loads(path.read_text()).items() if key != "padding_side"}
    path.write_text(json.dumps(settings | ({"padding_side": side_of_file} if side_of_file else {})))
    loaded = LlavaUhdV2Processor.from_pretrained(tmp_path)
    built = LlavaUhdV2Processor(vicuna.image_processor, AutoTokenizer.from_pretrained(tmp_path))
    left = masks(loaded)
    assert left[0] == 0 and masks(built) == left == masks(vicuna)

    right = left[::-1]
    assert masks(loaded, padding_side="right") == masks(loaded, text_kwargs={"padding_side": "right"}) == right
    assert masks(LlavaUhdV2Processor.from_pretrained(tmp_path, padding_side="right")) == right
    loaded.tokenizer.padding_side = "right"
    assert masks(loaded) == right
    loaded.save_pretrained(tmp_path)  # which is of this process alone
    assert masks(LlavaUhdV2Processor.from_pretrained(tmp_path)) == left


SWAPPED = "Expected images as `images`, got the text '.*'; images come first: `processor\\(images=..., text=...\\)`"


@pytest.mark.parametrize(
    ("images", "text", "message"),
    [
        ("What is this?", "IMAGE", SWAPPED),
        ("<image>What?", "IMAGE", SWAPPED),
        (["What?"], ["IMAGE"], SWAPPED),
        ("<image>What?", "photo.jpg", SWAPPED),
        ("<image>What?", None, SWAPPED),
        ("What is this?", None, r"Image 0 \(What is this\?\) cannot be used: it is no file, http\(s\) URL or base64"),
        ("What is this?", "<image>", r"Image 0 \(What is this\?\) cannot be used: it is no file"),
        (None, "IMAGE", "Text 0 is a Image; .*; pass images as `images`"),
        ("IMAGE", "IMAGE", "Text 0 is a Image; .*; pass images as `images`"),
        (None, ["What?", np.zeros((9, 9, 3))], "Text 1 is a ndarray; .*; pass images as `images`"),
        (None, torch.zeros(3, 9, 9), "Text 0 is a Tensor; .*; pass images as `images`"),
        (5, "<image>", "Image 0 cannot be used: it is a int"),
        (None, 5, "Text 0 is a int; `text` must be a string or a list of them"),
        (None, [["What?"]], "Text 0 is a list"),
        (None, [], "`text` is an empty list"),
    ],
)
def test_what_stands_in_the_wrong_place_is_named(vicuna, picture, images, text, message):
    def fill(value):
        if isinstance(value, list):
            return [fill(entry) for entry in value]
        return picture if isinstance(value, str) and value == "IMAGE" else value

    with pytest.raises(ValueError, match=message):
        vicuna(fill(images), fill(text))


@pytest.mark.parametrize("empty", [[], None])
@pytest.mark.parametrize("flat", [True, False])
def test_batches_mix_texts_with_and_without_images(vicuna, picture, flat, empty):
    for images in ([[], [picture]], [[picture], []], [[picture, picture], [picture]]):
        texts = ["<image>" * len(sample) + "What is this?" for sample in images]
        passed = [image for sample in images for image in sample] if flat else [sample or empty for sample in images]
        out = vicuna(images=passed, text=texts, padding=True, return_tensors="pt")
        assert (out["input_ids"] == vicuna.image_token_id).sum(-1).tolist() == [144 * len(s) for s in images]
        assert len(out["pixel_values"]) == len(out["image_sizes"]) == sum(map(len, images))
        assert out["attention_mask"][:, -1].tolist() == [1, 1]  # padded on the left
    assert set(out) == set(vicuna.model_input_names) == {"input_ids", "attention_mask", "pixel_values", "image_sizes"}


@pytest.mark.parametrize("images", [None, [], [[], []], [None, None]])
def test_texts_without_images(vicuna, images):
    out = vicuna(images=images, text=["Name the capital of France."] * 2, return_tensors="pt")
    assert set(out) == {"input_ids", "attention_mask"}


def test_images_and_marks_must_match(vicuna, picture):
    texts = ["<image> a", "b"]
    with pytest.raises(ValueError, match=r"\[1, 0\] `<image>` marks and there are \[0, 1\] images"):
        vicuna(images=[[], [picture]], text=texts)
    with pytest.raises(ValueError, match=r"\[1, 0\] `<image>` marks and there are \[1\] images"):
        vicuna(images=[[picture]], text=texts)
    with pytest.raises(ValueError, match=r"\[1, 0\] `<image>` marks and there are 2 images"):
        vicuna(images=[picture, picture], text=texts)
    for images in (None, [[], []]):
        with pytest.raises(ValueError, match=r"\[1, 0\] `<image>` marks and there are 0 images"):
            vicuna(images=images, text=texts)


def chat_about(*turns):
    """A conversation; a turn is (role, text, images...), and an image is an entry like {"path": ...}."""
    return [
        {"role": role, "content": [*({"type": "image", **image} for image in images), {"type": "text", "text": text}]}
        for role, text, *images in turns
    ]


def test_chats_take_images_in_every_form(vicuna, picture, tmp_path):
    picture.save(file := tmp_path / "picture.png")
    data = base64.b64encode(file.read_bytes()).decode()
    forms = [
        {"image": picture},
        {"image": np.asarray(picture)},
        {"image": str(file)},
        {"image": file},
        {"path": str(file)},
        {"url": f"data:image/png;base64,{data}"},
        {"base64": data},
    ]
    for form in forms:
        chat = chat_about(("user", "What is this?", form))
        out = vicuna.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
        expected = vicuna(images=picture, text=vicuna.apply_chat_template(chat), return_tensors="pt")
        assert set(out) == set(expected)
        assert all(torch.equal(out[key], expected[key]) for key in expected), form
    openai = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    chat = [{"role": "user", "content": [openai, {"type": "text", "text": "What is this?"}]}]
    again = vicuna.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    assert all(torch.equal(again[key], expected[key]) for key in expected)


def test_chats_have_several_turns_and_images(vicuna, picture):
    wide = Image.new("RGB", (1600, 700))  # sliced
    chats = [
        chat_about(
            ("user", "Compare these.", {"image": picture}, {"image": wide}),
            ("assistant", "One is dark."),
            ("user", "And this?", {"image": wide}),
            ("assistant", "It is wide."),
        ),
        chat_about(("user", "Name the capital of France."), ("assistant", "Paris")),
        chat_about(("user", "What is this?", {"image": wide})),
    ]
    options = {"padding": True, "return_mm_token_type_ids": True, "max_slices": [[9, 1, 9], [], [4]]}
    out = vicuna.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        return_tensors="pt",
        processor_kwargs=options,
    )
    sizes = [picture.size[::-1], (700, 1600), (700, 1600), (700, 1600)]
    tokens = vicuna._get_num_multimodal_tokens(image_sizes=sizes, max_slices=[9, 1, 9, 4]).num_image_tokens
    assert tokens[0] == tokens[1] == 144 < tokens[3] < tokens[2]
    is_image = out["input_ids"] == vicuna.image_token_id
    assert is_image.sum(-1).tolist() == [sum(tokens[:3]), 0, tokens[3]]
    assert torch.equal(torch.as_tensor(out["mm_token_type_ids"]).bool(), is_image)
    assert len(out["pixel_values"]) == len(out["image_sizes"]) == 4
    for ids, mask, answer in zip(
        out["input_ids"], out["assistant_masks"], ["One is dark.</s>It is wide.</s>", "Paris</s>", ""]
    ):
        assert vicuna.tokenizer.decode(ids[torch.as_tensor(mask).bool()]).replace("</s> ", "</s>") == answer


def test_a_chat_is_the_same_alone_and_in_a_batch(vicuna, picture):
    chats = [
        chat_about(("user", "What is this?", {"image": picture})),
        chat_about(("user", "Name the capital of France."), ("assistant", "Paris"), ("user", "And of Spain?")),
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = vicuna.apply_chat_template(chats, processor_kwargs={"padding": True}, **options)
    for index, chat in enumerate(chats):
        alone = vicuna.apply_chat_template(chat, **options)
        kept = batch["attention_mask"][index].bool()
        assert torch.equal(batch["input_ids"][index][kept], alone["input_ids"][0])
        assert ("pixel_values" in alone) == (index == 0)


def test_chats_name_what_is_wrong_with_images(vicuna, picture, tmp_path):
    (tmp_path / "empty.png").touch()
    bad = {"path": str(tmp_path / "empty.png")}
    chat = chat_about(("user", "Compare.", {"image": picture}, bad))
    with pytest.raises(ValueError, match=r"^Image 1 \(.*empty\.png\) cannot be used: it is empty"):
        vicuna.apply_chat_template(chat, tokenize=True, return_dict=True)
    chat = chat_about(("user", "Compare.", {"image": picture}, {}))
    with pytest.raises(ValueError, match=r"\[2\] `<image>` marks and there are \[1\] images"):
        vicuna.apply_chat_template(chat, tokenize=True, return_dict=True)


def test_max_slices_of_each_image(vicuna):
    image = Image.new("RGB", (1008, 672))
    texts = ["<image> a", "b", "<image><image> c"]
    for images in ([image] * 3, [[image], [], [image, image]]):
        for max_slices in ([1, 6, 4], [[1], [], [6, 4]]):
            out = vicuna(images=images, text=texts, max_slices=max_slices, padding=True, return_tensors="pt")
            assert out["image_sizes"][:, :2].tolist() == [[0, 0], [2, 3], [2, 2]]
            tokens = vicuna._get_num_multimodal_tokens(image_sizes=[(672, 1008)] * 3, max_slices=[1, 6, 4])
            in_texts = (out["input_ids"] == vicuna.image_token_id).sum(-1).tolist()
            first, second, third = tokens.num_image_tokens
            assert in_texts == [first, 0, second + third]
    with pytest.raises(ValueError, match="has 2 entries and there are 3 images"):
        vicuna._get_num_multimodal_tokens(image_sizes=[(672, 1008)] * 3, max_slices=[1, 6])


@given(height=st.integers(1, 1500), width=st.integers(1, 1500), max_slices=st.integers(1, 9))
@example(height=14, width=20000, max_slices=9)
@example(height=20000, width=14, max_slices=9)
@example(height=1, width=1, max_slices=9)
@example(height=1, width=20000, max_slices=9)
@settings(max_examples=60, deadline=None)
def test_tokens_and_patches_are_as_many_as_counted(reference, height, width, max_slices):
    processor = counting_processor(reference)
    out = processor(images=Image.new("RGB", (width, height)), text="<image>", max_slices=max_slices)
    [image_size] = out["image_sizes"]
    plan = SlicePlan.from_image_size(image_size, 14)
    assert plan.num_slices <= max_slices
    tokens = num_image_tokens(plan, query_grid=(12, 12), layout="spatial")
    assert out["input_ids"][0].count(processor.image_token_id) == tokens
    counted = processor._get_num_multimodal_tokens(image_sizes=[(height, width)], max_slices=max_slices)
    assert counted.num_image_tokens == [tokens]
    assert out["pixel_values"].shape == (1, plan.num_patches(14), 588)
    assert np.isfinite(out["pixel_values"]).all()


@functools.cache
def counting_processor(reference):
    tokenizer = AutoTokenizer.from_pretrained(reference / "tokenizers" / BYTE_LEVEL)
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    return LlavaUhdV2Processor(LlavaUhdV2ImageProcessor(), tokenizer)


@pytest.mark.parametrize("with_mask", [False, True])
def test_truncation_may_not_cut_an_image(vicuna, picture, with_mask):
    chat = chat_about(("user", "What is this?", {"image": picture}), ("assistant", "A ramp."))
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": with_mask}
    whole = vicuna.apply_chat_template(chat, **options)["input_ids"][0]
    begin = whole.index(vicuna.image_token_id)
    for length in (begin + 1, begin + 143):
        with pytest.raises(ValueError, match=rf"ids=\[{length - begin}\] and text=\[144\]"):
            vicuna.apply_chat_template(chat, processor_kwargs={"truncation": True, "max_length": length}, **options)
    length = begin + 150
    out = vicuna.apply_chat_template(chat, processor_kwargs={"truncation": True, "max_length": length}, **options)
    assert out["input_ids"][0] == whole[:length]
    assert len(out.get("assistant_masks", [whole[:length]])[0]) == length


@pytest.mark.parametrize("return_tensors", [None, "pt"])
def test_texts_beyond_the_tokenizers_limit_are_named(vicuna, picture, monkeypatch, return_tensors):
    call = {"images": [[], [picture, picture]], "text": ["a", "<image><image>b"], "padding": True}
    length = len(vicuna(**call)["input_ids"][1])
    monkeypatch.setattr(vicuna.tokenizer, "model_max_length", length)
    vicuna(**call, return_tensors=return_tensors)
    monkeypatch.setattr(vicuna.tokenizer, "model_max_length", length - 1)
    message = f"Text 1 has {length} tokens, 288 of them for images; .*`model_max_length` is {length - 1}"
    with pytest.raises(ValueError, match=message):
        vicuna(**call, return_tensors=return_tensors)
    assert len(vicuna(**call, truncation=True)["input_ids"][1]) == length - 1


def test_fields_are_saved(vicuna, tmp_path):
    processor = LlavaUhdV2Processor(
        LlavaUhdV2ImageProcessor(max_slices=9, slice_resolution=112),
        vicuna.tokenizer,
        query_grid=(2, 3),
        token_layout="sequential",
        image_suffix=" ",
        chat_template=VICUNA_V1_TEMPLATE,
    )
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert (saved["query_grid"], saved["token_layout"], saved["image_suffix"]) == ([2, 3], "sequential", " ")
    loaded = LlavaUhdV2Processor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    assert loaded.chat_template == VICUNA_V1_TEMPLATE
    image = Image.new("RGB", (224, 112))
    outputs = [one(images=image, text="<image>\nWhat?")["input_ids"] for one in (processor, loaded)]
    assert outputs[0] == outputs[1]
    assert outputs[0][0].count(loaded.image_token_id) == 2 * (2 * 3 + 1) + 2 * 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query_grid": (12, 0)}, r"`query_grid`.*\[12, 0\]"),
        ({"query_grid": (12,)}, r"`query_grid`.*\[12\]"),
        ({"token_layout": "spiral"}, "`token_layout`.*'spiral'"),
        ({"image_token": "<picture>"}, "no token `<picture>`"),
    ],
)
def test_bad_fields_are_named(vicuna, fields, message):
    with pytest.raises(ValueError, match=message):
        LlavaUhdV2Processor(vicuna.image_processor, vicuna.tokenizer, **fields)


def test_answers_are_decoded(vicuna):
    ids = vicuna.tokenizer("Two dogs are running</s>", return_tensors="pt")["input_ids"]
    assert vicuna.post_process_image_text_to_text(ids) == ["Two dogs are running"]
