# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Chat templates of language models, with images and marks, on formats of popular models."""

import copy
import functools

import jinja2
import pytest
from PIL import Image
from transformers import AutoTokenizer

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.conversion.chat_templates import NAMED_TEMPLATES, choose_chat_template, end_tokens
from llava_uhd_v2_hf.conversion.processor_files import build_processor, load_tokenizer, separator_ids
from llava_uhd_v2_hf.data.collation import ConversationCollator
from tests.support.language_model_templates import BYTE_LEVEL, FORMATS, SENTENCEPIECE, toy_tokenizer
from tests.support.paths import GOLDEN


SYSTEM = {"role": "system", "content": "Answer in French."}
FIRST = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "a red boat"}]
SECOND = [{"role": "user", "content": "  12 + 3?\n"}, {"role": "assistant", "content": "15"}]
CONVERSATIONS = {
    "question": FIRST[:1],
    "answer": FIRST,
    "second question": [*FIRST, SECOND[0]],
    "second answer": [*FIRST, *SECOND],
    "system": [SYSTEM, FIRST[0]],
    "system, two answers": [SYSTEM, *FIRST, *SECOND],
}
IMAGE = Image.new("RGB", (112, 112))


@functools.cache
def make_processor(name):
    """A processor with the template of a format, as `assemble` makes it."""
    tokenizer = copy.deepcopy(toy_tokenizer(name))
    template = choose_chat_template(tokenizer, "gemma", "own")
    assert template.name == "own" and not template.reason
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.padding_side, tokenizer.chat_template = "left", template.source
    return build_processor(LlavaUhdV2Config(projector_config={"query_grid": [2, 2]}), tokenizer, slice_resolution=112)


def as_lists(messages):
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("prompting", [False, True])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_prompts_without_images_are_the_tokenizers_own(name, prompting, conversation):
    tokenizer, messages = toy_tokenizer(name), CONVERSATIONS[conversation]
    options = {"add_generation_prompt": prompting, "tokenize": True, "return_dict": True}
    for ours in (messages, as_lists(messages)):
        try:
            expected = tokenizer.apply_chat_template(messages, **options)["input_ids"]
        except jinja2.TemplateError as error:  # no system role
            with pytest.raises(jinja2.TemplateError, match=str(error)):
                make_processor(name).apply_chat_template(ours, **options)
            continue
        found = make_processor(name).apply_chat_template(ours, return_tensors=None, **options)["input_ids"]
        assert found[0] == expected


@pytest.mark.parametrize("name", FORMATS)
def test_images_stand_before_the_text_of_their_message(name):
    processor, tokenizer = make_processor(name), toy_tokenizer(name)
    content = [{"type": "text", "text": "Which one?"}, {"type": "image", "image": IMAGE}]
    options = {"add_generation_prompt": True, "tokenize": False}
    prompt = processor.apply_chat_template([*FIRST, {"role": "user", "content": content}], **options)
    marked = {"role": "user", "content": "<image>\nWhich one?"}
    assert prompt == tokenizer.apply_chat_template([*FIRST, marked], **options)
    inputs = processor.apply_chat_template(
        [*FIRST, {"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 4


@pytest.mark.parametrize("name", FORMATS)
def test_marked_are_the_answers_with_their_end_tokens_and_nothing_else(name):
    processor, end = make_processor(name), FORMATS[name].end
    assert end_tokens(processor.chat_template, processor.tokenizer) == [end]
    sample = {
        "messages": [{"role": "user", "content": "<image>\nWhat is it?"}, FIRST[1], *SECOND],
        "images": [IMAGE],
    }
    batch = ConversationCollator(processor)([sample])
    trained = batch["labels"][0] != -100
    groups, before = [], False
    for token, is_trained in zip(batch["input_ids"][0].tolist(), trained.tolist()):
        if is_trained:
            groups = groups if before else [*groups, []]
            groups[-1].append(token)
        before = is_trained
    texts = [processor.tokenizer.decode(group).replace(" ", "") for group in groups]
    thought = "<think>\n\n</think>\n\n" if name == "qwen3" else ""  # written before the last answer, by the template
    assert texts == ["aredboat" + end, thought + "15" + end]


def test_generation_begins_where_the_marks_begin():
    """In formats whose prompt ends with a role, an answer is marked from there; in Llama 2's, from its space."""
    for name in FORMATS:
        processor = make_processor(name)
        prompt = processor.apply_chat_template(FIRST[:1], add_generation_prompt=True)
        whole = processor.apply_chat_template(FIRST)
        assert whole.startswith(prompt), name


def own(template, base=BYTE_LEVEL):
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "tokenizers" / base)
    tokenizer.chat_template = template
    return tokenizer


LOOP = "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
COUNTED = (
    "{% for message in messages %}{{ message.content | length }}{{ message.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)
SHOUTED = "{% for message in messages %}{{ message.content | upper }}<|im_end|>{% endfor %}"
BROKEN = {
    "no end token": (LOOP, "expected a token that ends an answer, got '"),
    "the length of an answer": (COUNTED, "with images and marks it makes"),
    "another text": (SHOUTED, "with images and marks it makes|writes `<image>` 0 times|it marks"),
    "an error": ("{{ raise_exception('tools only') }}", "tools only"),
    "none": (None, "has no chat template"),
    "several": ({"rag": LOOP}, "several chat templates, none the default"),
}


@pytest.mark.parametrize("template, reason", BROKEN.values(), ids=BROKEN)
def test_a_template_that_cannot_be_used_is_named_and_replaced(template, reason):
    tokenizer = own(template)
    taken = choose_chat_template(tokenizer, "llama", None)
    assert (taken.name, taken.source) == ("vicuna", NAMED_TEMPLATES["vicuna"])
    with pytest.raises(ValueError, match=reason):
        choose_chat_template(tokenizer, "llama", "own")
    with pytest.raises(ValueError, match=reason) as error:
        choose_chat_template(tokenizer, "gemma", None)
    assert "--chat-template vicuna|qwen2|plain|FILE" in str(error.value)
    assert taken.reason and taken.reason in str(error.value)


def test_choices(tmp_path):
    tokenizer = own(FORMATS["smollm2"].template)
    for name, source in NAMED_TEMPLATES.items():
        assert choose_chat_template(tokenizer, "llama", name).source == source
    assert end_tokens(NAMED_TEMPLATES["plain"], tokenizer) == []
    assert end_tokens(NAMED_TEMPLATES["qwen2"], tokenizer) == ["<|im_end|>"]
    (tmp_path / "phi.jinja").write_text(FORMATS["phi-4"].template)
    taken = choose_chat_template(tokenizer, "llama", str(tmp_path / "phi.jinja"))
    assert taken.name == "phi.jinja" and "<|im_sep|>" in taken.source
    with pytest.raises(ValueError, match="There is no chat template vicunna: expected own, vicuna, qwen2, plain or"):
        choose_chat_template(tokenizer, "llama", "vicunna")


def test_a_template_that_is_ours_already_stays():
    tokenizer = own(FORMATS["smollm2"].template)
    first = choose_chat_template(tokenizer, "llama", None).source
    tokenizer.chat_template = first
    assert choose_chat_template(tokenizer, "llama", None).source == first


@pytest.mark.parametrize("base, comma", [(SENTENCEPIECE, ","), (BYTE_LEVEL, ",")])
def test_separators_are_newline_and_comma(base, comma):
    tokenizer = load_tokenizer(GOLDEN / "tokenizers" / base, None)
    row, slice_ = separator_ids(tokenizer)
    newline = {SENTENCEPIECE: "<0x0A>", BYTE_LEVEL: "Ċ"}[base]
    assert (row, slice_) == tuple(tokenizer.convert_tokens_to_ids([newline, comma]))
