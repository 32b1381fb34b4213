# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Batches for training: the recorded labels, mixed batches, and samples that don't fit."""

import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration
from llava_uhd_v2_hf.data.collation import ConversationCollator
from llava_uhd_v2_hf.data.conversations import read_conversation
from tests.support.recorded_formats import FORMATS, build_processor, collapse


LABEL_RULES = {"qwen_1_5": "released-chatml"}


@pytest.fixture(scope="module")
def processors(reference):
    return {name: build_processor(reference, name) for name in FORMATS}


@pytest.fixture
def vicuna(processors):
    return processors["v1"]


def picture(width=60, height=40):
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


def sample(*values, images=()):
    """Questions and answers in turn."""
    speakers = ("human", "gpt")
    turns = [{"from": speakers[number % 2], "value": value} for number, value in enumerate(values)]
    return read_conversation({"conversations": turns, "images": list(images)})


def recorded_sample(case):
    values = [value for _, value in case["messages"]]
    return sample(*values, images=[picture()] * sum(value.count("<image>") for value in values))


def recorded_cases(reference, *names):
    training = json.loads((reference / "prompts.json").read_text())["training"]
    cases = [(name, case) for name in names for case in training[name].values()]
    assert cases
    return cases


def supervised_substrings(tokenizer, labels):
    """The text of each run of labels."""
    runs: list[list[int]] = [[]]
    for label in labels:
        if label == -100:
            runs.append([])
        else:
            runs[-1].append(label)
    return [tokenizer.decode(run) for run in runs if run]


# Labels


def test_labels_are_the_recorded_ones(reference, processors):
    """Token by token, and as text; ChatML by the released rule, the other formats by the template's marks."""
    for name, case in recorded_cases(reference, *FORMATS):
        processor = processors[name]
        collate = ConversationCollator(processor, label_rule=LABEL_RULES.get(name, "template"))
        batch = collate([recorded_sample(case)])
        ids, kept = collapse(processor, batch["input_ids"][0].tolist())
        assert ids == case["input_ids"], name
        assert batch["labels"][0][kept].tolist() == case["labels"], name
        assert supervised_substrings(processor.tokenizer, batch["labels"][0].tolist()) == case["supervised_substrings"]


def test_what_the_template_leaves_out_of_chatml(reference, processors):
    """The answers with their end tokens are left; headers, and end tokens and newlines elsewhere, are not."""
    tokenizer = processors["qwen_1_5"].tokenizer
    for _, case in recorded_cases(reference, "qwen_1_5"):
        batches = [
            ConversationCollator(processors["qwen_1_5"], label_rule=rule)([recorded_sample(case)])
            for rule in ("template", "released-chatml")
        ]
        template, released = (batch["labels"][0] for batch in batches)
        answers = [text + "<|im_end|>" for speaker, text in case["messages"] if speaker == "gpt"]
        assert supervised_substrings(tokenizer, template.tolist()) == answers
        assert torch.equal(released[template != -100], template[template != -100])
        left_out = tokenizer.decode(released[(template == -100) & (released != -100)])
        headers = left_out.count("<|im_start|>assistant\n")
        assert headers == len(answers)
        rest = left_out.replace("<|im_start|>assistant\n", "")
        assert set(rest.replace("<|im_start|>", "\n").replace("<|im_end|>", "\n")) == {"\n"}


@pytest.mark.parametrize("answer", ["7 dogs", "yellow", "The sign", "  padded"])
def test_what_is_trained_begins_where_generation_does(vicuna, answer):
    """Also where an answer begins with a token of a space alone, as digits do."""
    question = {"role": "user", "content": "How many?"}
    row = ConversationCollator(vicuna)([{"messages": [question, {"role": "assistant", "content": answer}]}])
    prompt = vicuna.apply_chat_template([question], add_generation_prompt=True, tokenize=True, return_dict=True)
    start = len(prompt["input_ids"][0])
    trained = (row["labels"][0] != -100).nonzero().flatten()
    assert trained.tolist() == list(range(start, row["input_ids"].shape[1]))


def test_the_released_chatml_rule_needs_its_tokens(vicuna):
    with pytest.raises(ValueError, match=r"needs '<\|im_start\|>' as one token.*take 'template'"):
        ConversationCollator(vicuna, label_rule="released-chatml")


# Batches

texts = st.text("ab <|>\n", min_size=1, max_size=12).map(lambda text: f"w{text}")
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
sizes = st.lists(st.sampled_from([(60, 40), (700, 340), (40, 900)]), max_size=2)


@settings(max_examples=15, deadline=None)
@given(samples=st.lists(st.tuples(turns, sizes), min_size=1, max_size=3), name=st.sampled_from(["v1", "qwen_1_5"]))
def test_every_row_of_a_batch_is_its_sample_alone(processors, samples, name):
    """Whatever is batched: a row is what its sample is alone, padded on the right; images are never labels."""
    collate = ConversationCollator(processors[name], label_rule=LABEL_RULES.get(name, "template"))
    conversations = []
    for pairs, image_sizes in samples:
        values = [value for pair in pairs for value in pair]
        values[0] = "<image>" * len(image_sizes) + values[0]
        conversations.append(sample(*values, images=[picture(*size) for size in image_sizes]))
    batch = collate(conversations)
    first_image = 0
    for row, conversation in enumerate(conversations):
        alone = collate([conversation])
        length = alone["input_ids"].shape[1]
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (batch["labels"].shape[1] - length)
        assert torch.equal(batch["input_ids"][row, :length], alone["input_ids"][0])
        assert torch.equal(batch["labels"][row, :length], alone["labels"][0])
        assert (batch["labels"][row, length:] == -100).all()
        images = slice(first_image, first_image + len(conversation["images"]))
        first_image = images.stop
        if conversation["images"]:
            assert torch.equal(batch["image_sizes"][images], alone["image_sizes"])
            patches = alone["pixel_values"].shape[1]
            assert torch.equal(batch["pixel_values"][images, :patches], alone["pixel_values"])
            assert not batch["pixel_values"][images, patches:].any()
    supervised = batch["labels"] != -100
    assert torch.equal(batch["labels"][supervised], batch["input_ids"][supervised])
    assert not supervised[batch["input_ids"] == processors[name].image_token_id].any()
    assert ("pixel_values" in batch) == (first_image > 0)


def test_list_content_is_as_strings(processors):
    """Chats in transformers' form make the same batch, with the image behind the text, and with it in the message."""
    image = picture(700, 340)
    strings = sample("<image>\nWhat?", "A boat.", images=[image])
    content = [{"type": "text", "text": "What?"}, {"type": "image", "image": image}]
    answer = [{"type": "text", "text": "A boat."}]
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    for name in ("v1", "qwen_1_5", "plain"):
        collate = ConversationCollator(processors[name], max_slices=2)
        wanted = collate([strings])
        assert wanted["image_sizes"][0, :2].tolist() == [1, 2]
        for chat in (read_conversation({"messages": turns}), {"messages": turns}):
            batch = collate([chat])
            assert batch.keys() == wanted.keys()
            assert all(torch.equal(batch[key], value) for key, value in wanted.items())


def test_max_slices_of_one_leaves_the_overview(vicuna):
    large = sample("<image>\nWhat?", "A boat.", images=[picture(1200, 900)])
    sliced = ConversationCollator(vicuna, max_slices=7)([large])
    alone = ConversationCollator(vicuna, max_slices=1)([large])
    assert sliced["image_sizes"][0, 0] > 0
    assert alone["image_sizes"][0, :4].tolist() == [0, 0, 0, 0]
    assert (alone["input_ids"] == vicuna.image_token_id).sum() == 144


def test_the_processor_is_left_as_it_was(vicuna):
    limit = vicuna.tokenizer.model_max_length
    ConversationCollator(vicuna, max_length=5)
    assert vicuna.tokenizer.model_max_length == limit
    assert vicuna.tokenizer.padding_side == "left"


def test_samples_that_cannot_be_rendered_are_named(processors):
    two_turns = {**sample("<image>", "a boat", "And?", "sea", images=[picture()]), "name": "captions.json:3"}
    with pytest.raises(ValueError, match="captions.json:3 can't be used: The plain template takes one user message"):
        ConversationCollator(processors["plain"])([two_turns])
    gone = {**sample("<image>", "a boat", images=["gone.png"]), "name": "captions.json:7"}
    with pytest.raises(ValueError, match=r"captions.json:7 can't be used \(gone.png\): Image 0"):
        ConversationCollator(processors["plain"])([gone])


# Samples that don't fit


def test_text_is_cut_on_the_right(vicuna):
    whole = ConversationCollator(vicuna)([sample("Hi", "one two three four")])
    cut = ConversationCollator(vicuna, max_length=whole["input_ids"].shape[1] - 3)(
        [sample("Hi", "one two three four")]
    )
    for key in ("input_ids", "labels", "attention_mask"):
        assert torch.equal(cut[key], whole[key][:, :-3])


@pytest.mark.parametrize("template", [None, "{% for message in messages %}{{ message.content }}{% endfor %}"])
def test_a_template_without_marks_is_refused(reference, template):
    processor = build_processor(reference, "v1")
    processor.chat_template = template
    with pytest.raises(ValueError, match="marks nothing to train on: expected {% generation %}"):
        ConversationCollator(processor)


def test_a_tokenizer_without_a_limit(reference):
    processor = build_processor(reference, "v1")
    processor.tokenizer.model_max_length = int(1e30)  # transformers' word for none
    batch = ConversationCollator(processor)([sample("<image>\nHi", "one two", images=[picture()])])
    assert processor.tokenizer.decode(batch["input_ids"][0, -3:]).endswith("two</s>")


def test_the_default_length_is_the_tokenizer_s(reference):
    processor = build_processor(reference, "v1")
    processor.tokenizer.model_max_length = 60
    batch = ConversationCollator(processor)([sample("Hi", "one two three four " * 20)])
    assert batch["input_ids"].shape == (1, 60)


def test_images_are_never_cut(vicuna):
    with_image = {**sample("<image>\nWhat?", "A boat.", images=[picture()]), "name": "a.json:4"}
    before = (ConversationCollator(vicuna)([with_image])["input_ids"] == vicuna.image_token_id).nonzero()[-1, 1] + 1
    with pytest.raises(ValueError, match=r"a.json:4 has \d+ tokens, 144 of them for images, and `max_length`="):
        ConversationCollator(vicuna, max_length=int(before) - 1)([with_image])
    with pytest.raises(ValueError, match="a.json:4 has no token that is trained on in its first"):
        ConversationCollator(vicuna, max_length=int(before))([with_image])  # all of the image fits, no answer


def test_dropped_samples_are_counted_and_a_batch_of_none_trains_nothing(vicuna):
    collate = ConversationCollator(vicuna, max_length=80, unsupervised="drop", cut_images="drop")
    with_image = sample("<image>\nWhat?", "A boat.", images=[picture()])
    long_question = sample("why " * 200, "So.")
    short = sample("Hi", "Yes.")
    assert torch.equal(collate([with_image, short, long_question])["labels"], collate([short])["labels"])
    assert collate.counts.totals() == {"unsupervised": 1, "cut_images": 1}

    nothing = collate([with_image, with_image])
    assert nothing.keys() == {"input_ids", "attention_mask", "labels"}
    assert nothing["attention_mask"].all() and (nothing["labels"] == -100).all()
    assert nothing["input_ids"].shape == (1, 2)


def test_workers_count_together(vicuna):
    collate = ConversationCollator(vicuna, max_length=80, unsupervised="drop")
    samples = [sample("Hi", "Yes."), sample("why " * 200, "So.")] * 4
    rows = [len(batch["labels"]) for batch in DataLoader(samples, batch_size=2, collate_fn=collate, num_workers=2)]
    assert rows == [1] * 4
    assert collate.counts.totals() == {"unsupervised": 4, "cut_images": 0}


def test_a_pickled_collator_makes_the_same_batch(vicuna):
    collate = ConversationCollator(vicuna, max_slices=1)
    samples = [sample("<image>\nWhat?", "A boat.", images=[picture()]), sample("Hi", "Yes.")]
    again = pickle.loads(pickle.dumps(collate))(samples)
    for key, value in collate(samples).items():
        assert torch.equal(again[key], value)


def test_transformers_trainer_takes_it(vicuna, tiny_config, tmp_path):
    vocabulary = len(vicuna.tokenizer)
    config = tiny_config.to_dict()
    config["text_config"]["vocab_size"] = vocabulary
    config["projector_config"]["query_grid"] = list(vicuna.query_grid)
    config["image_token_id"] = vicuna.image_token_id
    torch.manual_seed(0)
    model = LlavaUhdV2ForConditionalGeneration(LlavaUhdV2Config.from_dict(config))
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        remove_unused_columns=False,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    samples = [sample("<image>\nWhat?", "A boat.", images=[picture()]), sample("Hi", "Yes.")] * 2
    trainer = Trainer(model, arguments, train_dataset=samples, data_collator=ConversationCollator(vicuna))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
