# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Records of data sets as conversations: what is accepted, what is changed, what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_uhd_v2_hf.data.conversations import read_conversation


def llava(*values, **more):
    speakers = ("human", "gpt")
    return {
        "conversations": [{"from": speakers[n % 2], "value": value} for n, value in enumerate(values)],
        **more,
    }


def test_the_image_comes_first_as_recorded(reference):
    """The messages after the released rule, of every recorded conversation."""
    recorded = json.loads((reference / "prompts.json").read_text())["prompts"]["v1"]
    for case in recorded.values():
        values = [value for _, value in case["messages"]]
        images = ["a.png"] * sum(value.count("<image>") for value in values)
        messages = read_conversation(llava(*values, image=images))["messages"]
        assert [message["content"] for message in messages] == case["after_image_first_rule"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("What is it?\n<image>", "<image>\nWhat is it?"),
        (" <image> ", "<image>"),
        ("<image> What? ", "<image> What? "),
    ],
)
def test_a_single_image_is_moved_to_the_front(text, wanted):
    conversation = read_conversation(llava(text, "A boat.", image="boat.png"))
    assert conversation == {
        "messages": [{"role": "user", "content": wanted}, {"role": "assistant", "content": "A boat."}],
        "images": ["boat.png"],
    }


def test_several_images_stay_where_they_are():
    text = "First <image> then\n<image>"
    conversation = read_conversation(llava(text, "Yes.", "And?", "No.", image=["a.png", "b.png"]))
    assert [message["content"] for message in conversation["messages"]] == [text, "Yes.", "And?", "No."]
    assert conversation["images"] == ["a.png", "b.png"]


def test_text_alone_and_a_system_message():
    record = llava("Hi", "Hello.")
    record["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    conversation = read_conversation({**record, "image": None})
    assert [message["role"] for message in conversation["messages"]] == ["system", "user", "assistant"]
    assert conversation["images"] == []


def test_chat_records():
    """String content is as LLaVA's; list content keeps its entries, with images in them or beside them."""
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A boat."}]}
    strings = {"messages": [{"role": "user", "content": "What?\n<image>"}, answer], "images": ["a.png"]}
    assert read_conversation(strings)["messages"][0]["content"] == "<image>\nWhat?"

    text = {"type": "text", "text": "What?"}
    wanted = {
        "messages": [{"role": "user", "content": [{"type": "image"}, text]}, answer],
        "images": ["a.png"],
    }
    for entry, beside in (
        ({"type": "image"}, {"images": ["a.png"]}),
        ({"type": "image", "text": None}, {"image": "a.png"}),
        ({"type": "image", "image": "a.png"}, {}),
        ({"type": "image", "url": "a.png"}, {"images": []}),
    ):
        record = {"messages": [{"role": "user", "content": [entry, text]}, answer], **beside}
        assert read_conversation(record) == wanted


def test_the_response_format_prompt_follows_the_first_question():
    prompt = "Answer with one word."
    record = llava("<image>\nWhat?", "Boat.", "Where?", "Sea.", image="a.png")
    messages = read_conversation(record, prompt)["messages"]
    assert [message["content"] for message in messages] == [f"<image>\nWhat?\n{prompt}", "Boat.", "Where?", "Sea."]
    has_it = llava(f"<image>\nWhat?\n{prompt}", "Boat.", image="a.png")
    assert read_conversation(has_it, prompt) == read_conversation(has_it)

    answer = {"role": "assistant", "content": "Boat."}
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    listed = read_conversation({"messages": [{"role": "user", "content": content}, answer], "image": "a"}, prompt)
    assert listed["messages"][0]["content"][-1] == {"type": "text", "text": f"\n{prompt}"}


TURN = {"from": "human", "value": "Hi"}
ANSWER = {"from": "gpt", "value": "Hello."}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], "the record is a list"),
        ({"id": 3}, "no `conversations` and no `messages`; it has id"),
        ({"conversations": "Hi"}, "`conversations` must be a list of turns, got 'Hi'"),
        ({"conversations": []}, "`conversations` must be a list of turns"),
        ({"conversations": [TURN, "Hello."]}, r"`conversations\[1\]` must be an object"),
        ({"conversations": [TURN, {"from": "bot", "value": "x"}]}, r"`conversations\[1\]` is from 'bot'; use human"),
        ({"conversations": [TURN, {"from": ["gpt"], "value": "x"}]}, r"`conversations\[1\]` is from \['gpt'\]"),
        ({"conversations": [TURN, {"from": "gpt", "value": " "}]}, r"`conversations\[1\]` says nothing"),
        ({"conversations": [TURN, {"from": "gpt", "value": 3}]}, r"`conversations\[1\]` says nothing.*got 3"),
        ({"conversations": [ANSWER]}, r"`conversations\[0\]`: expected role 'user', got 'assistant'"),
        ({"conversations": [TURN, TURN, ANSWER]}, r"`conversations\[1\]`: expected role 'assistant', got 'user'"),
        ({"conversations": [TURN]}, "`conversations` ends with the user"),
        ({"messages": [{"role": "system", "content": "Hi"}]}, "`messages` ends with the system"),
        ({"conversations": [TURN, ANSWER], "image": "a.png"}, "has 0 `<image>` marks and there are 1 images"),
        (llava("<image><image>", "x", image="a.png"), "has 2 `<image>` marks and there are 1 images"),
        (llava("<image>", "x", image=[""]), "`image` has an empty name"),
        (llava("<image>", "x", image="a.png", images=["a.png"]), "the images are given twice"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            r"`messages\[0\]` has an entry that is neither text nor an image: {'type': 'video'}",
        ),
    ],
)
def test_records_that_are_refused(record, message):
    with pytest.raises(ValueError, match=message):
        read_conversation(record)


@given(
    st.lists(st.text(st.characters(exclude_characters="<", codec="utf-8"), min_size=1), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_no_word_and_no_image_is_lost(texts, marks):
    """Every question keeps its words and its marks; answers are not touched."""
    questions = [f"{'<image>' * count}\nq{text}" for text, count in zip(texts, marks)]
    values = [part for question in questions for part in (question, "an answer ")]
    images = [f"{number}.png" for number in range(sum(marks[: len(texts)]))]
    conversation = read_conversation(llava(*values, image=images))
    assert conversation["images"] == images
    for value, message in zip(values, conversation["messages"], strict=True):
        assert message["content"].split() == value.split()
