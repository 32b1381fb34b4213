# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a body may say, and what its refusal says: the place, what was expected and what was found."""

import json
import re

import pytest
from pydantic import ValidationError

from llava_uhd_v2_hf.serve.errors import ApiError
from llava_uhd_v2_hf.serve.schema import ChatRequest, ImagePart, TextPart, parse_request


TEXT = {"type": "text", "text": "Hello"}
MESSAGES = [{"role": "user", "content": "Hello"}]
KNOWN = "'text' or 'image_url'"


def parse(**fields):
    return parse_request(json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode())


def parse_part(part):
    return parse(messages=[*MESSAGES, {"role": "user", "content": [TEXT, part]}])


def refusal(parser, *args, **fields):
    with pytest.raises(ApiError) as error:
        parser(*args, **fields)
    assert error.value.status == 400 and len(error.value.message) <= 1000
    return error.value


@pytest.mark.parametrize(
    "kind, found",
    [
        ("video_url", "'video_url'"),
        ("input_text", "'input_text'"),
        ("", "''"),
        ("x" * 500, f"'{'x' * 59}..."),
        (5, "5"),
        (None, "null"),
        (True, "true"),
        (["text"], "a list of length 1"),
        ({}, "an object"),
    ],
)
def test_content_parts_of_other_types(kind, found):
    error = refusal(parse_part, {"type": kind, "text": "Hello"})
    assert error.param == "messages[1].content[1].type" and error.code == "invalid_value"
    assert error.message == f"`messages[1].content[1].type`: expected {KNOWN}, got {found}."


def test_content_parts_without_a_type():
    for part in ({}, {"text": "Hello"}):
        error = refusal(parse_part, part)
        assert error.message == f"`messages[1].content[1].type` is missing; expected {KNOWN}."


def test_the_types_of_content_parts_are_those_that_refusals_name():
    types = [part.model_fields["type"].annotation.__args__[0] for part in (TextPart, ImagePart)]
    assert " or ".join(map(repr, types)) == KNOWN


PART = "messages[1].content[1]"


@pytest.mark.parametrize(
    "part, place, reason",
    [
        ("Hello", PART, ": expected an object, got 'Hello'."),
        (None, PART, ": expected an object, got null."),
        ([], PART, ": expected an object, got a list of length 0."),
        ({"type": "text"}, f"{PART}.text", " is missing."),
        ({"type": "text", "text": 5}, f"{PART}.text", ": expected a string, got 5."),
        ({"type": "text", "text": "a\0"}, f"{PART}.text", r": expected text without NUL characters, got 'a\x00'."),
        ({"type": "image_url"}, f"{PART}.image_url", " is missing."),
        ({"type": "image_url", "image_url": "a"}, f"{PART}.image_url", ": expected an object, got 'a'."),
        ({"type": "image_url", "image_url": {}}, f"{PART}.image_url.url", " is missing."),
        (
            {"type": "image_url", "image_url": {"url": ""}},
            f"{PART}.image_url.url",
            ": expected a string that is not empty, got ''.",
        ),
        (
            {"type": "image_url", "image_url": {"url": "a", "detail": "huge"}},
            f"{PART}.image_url.detail",
            ": expected 'auto', 'low', 'high' or 'original', got 'huge'.",
        ),
        ({**TEXT, "cache_control": {}}, f"{PART}.cache_control", " is not supported here; leave it out."),
    ],
)
def test_wrong_fields_of_content_parts(part, place, reason):
    error = refusal(parse_part, part)
    assert (error.param, error.message) == (place, f"`{place}`{reason}")


LONGEST = 2**63


@pytest.mark.parametrize(
    "field, value, reason",
    [
        ("model", 7, "expected a string, got 7"),
        ("messages", "Hello", "expected a list, got 'Hello'"),
        ("messages", [], "expected a list that is not empty, got a list of length 0"),
        ("max_tokens", "20", "expected an integer, got '20'"),
        ("max_tokens", 0.0, "expected a number of at least 1, got 0"),
        ("max_completion_tokens", LONGEST, f"expected a number below {LONGEST}, got {LONGEST}"),
        ("seed", 1e300, f"expected a number below {LONGEST}, got {str(int(1e300))[:60]}..."),
        ("temperature", "hot", "expected a number, got 'hot'"),
        ("temperature", True, "expected a number, got true"),
        ("temperature", 2.5, "expected a number of at most 2.0, got 2.5"),
        ("top_p", float("nan"), "expected a finite number, got NaN"),
        ("stop", 3, "expected a string or a list of strings, got 3"),
        ("stop", list("abcde"), "expected a list of at most 4 entries, got a list of length 5"),
        ("stream", 1, "expected true or false, got 1"),
        ("stream_options", True, "expected an object, got true"),
    ],
)
def test_wrong_fields(field, value, reason):
    error = refusal(parse, **{field: value})
    assert (error.param, error.message) == (field, f"`{field}`: {reason}.")


@pytest.mark.parametrize(
    "messages, place, reason",
    [
        ([1], "messages[0]", ": expected an object, got 1."),
        ([{"content": "a"}], "messages[0].role", " is missing."),
        ([{"role": "user"}], "messages[0].content", " is missing."),
        ([{"role": "user", "content": 5}], "messages[0].content", ": expected a string or a list of parts, got 5."),
        (
            [{"role": "tool", "content": "a"}],
            "messages[0].role",
            ": expected 'system', 'developer', 'user' or 'assistant', got 'tool'.",
        ),
    ],
)
def test_wrong_messages(messages, place, reason):
    error = refusal(parse, messages=messages)
    assert (error.param, error.message) == (place, f"`{place}`{reason}")


@pytest.mark.parametrize(
    "body, message, code",
    [
        (b"[1, 2]", "The request's body: expected an object, got a list of length 2.", "invalid_value"),
        (b"null", "The request's body: expected an object, got null.", "invalid_value"),
        (b"", "Invalid JSON in the request's body: EOF while parsing a value at line 1 column 0.", "invalid_json"),
    ],
)
def test_bodies_that_are_no_objects(body, message, code):
    error = refusal(parse_request, body)
    assert (error.param, error.message, error.code) == (None, message, code)


def test_one_wrong_part_is_enough():
    """The rest of a list isn't checked: each error takes far more memory than the bytes that it comes of."""
    message = {"role": "user", "content": [{}] * 1000}
    for messages in ([message], [{}] * 1000):
        with pytest.raises(ValidationError) as error:
            ChatRequest.model_validate({"model": "m", "messages": messages})
        assert error.value.error_count() <= 2  # the fields of one message


INTEGERS = ["max_tokens", "max_completion_tokens", "seed"]


@pytest.mark.parametrize("field", INTEGERS)
def test_whole_numbers_with_a_point_are_integers(field):
    for value in (20, 20.0, 2e1):
        parsed = getattr(parse(**{field: value}), field)
        assert parsed == 20 and type(parsed) is int
    for value, found in ((20.5, "20.5"), (True, "true"), (False, "false"), ("20", "'20'"), (float("inf"), "Infinity")):
        error = refusal(parse, **{field: value})
        assert error.message == f"`{field}`: expected an integer, got {found}."


@pytest.mark.parametrize(
    "field, value", [(field, value) for field, values in ChatRequest.neutral.items() for value in values]
)
def test_neutral_values(field, value):
    """0 and 0.0 are the same; 0 and false are not."""
    parse(**{field: value})
    if isinstance(value, int) and not isinstance(value, bool):
        parse(**{field: float(value)})
    if value in (0, 1):
        others = ", ".join(map(json.dumps, ChatRequest.neutral[field])).replace(", ", " or ")
        wrong = int(value) if isinstance(value, bool) else bool(value)
        error = refusal(parse, **{field: wrong})
        message = f"`{field}`: {json.dumps(wrong)} is not supported here, only {others}; leave it out."
        assert (error.message, error.param, error.code) == (message, field, "unsupported_parameter")


def test_keys_that_are_not_known():
    error = refusal(parse, top_k=20)
    assert error.message == "`top_k` is not supported here; leave it out." and error.code == "unsupported_parameter"
    error = refusal(parse, **{"x" * 5000: 1})
    assert len(error.param) == 200


VALUES = [
    None,
    False,
    0,
    -1,
    1.5,
    2**70,
    float("nan"),
    "",
    "a\0",
    "x" * 300,
    [],
    [1],
    [None] * 5,
    {},
    {"type": 1},
    {"url": 1},
]
PLACES = [
    *({name: None} for name in [*ChatRequest.model_fields, *ChatRequest.neutral, "other"]),
    {"messages": [None]},
    *({"messages": [{"role": "user", "content": "a", name: None}]} for name in ("role", "content", "tool_calls")),
    {"messages": [{"role": "user", "content": [None]}]},
    *({"messages": [{"role": "user", "content": [{**TEXT, name: None}]}]} for name in ("type", "text", "other")),
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": None}]}]},
    *(
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a", name: None}}]}]}
        for name in ("url", "detail")
    ),
    {"stop": [None]},
    *({"stream": True, "stream_options": {name: None}} for name in ("include_usage", "include_obfuscation")),
]
FORMS = re.compile(
    r"`[^`]+`(: expected .+, got .+| is missing|: .+ is not supported here, only .+; leave it out"
    r"| is not supported here; leave it out| is missing; expected .+| needs `stream: true`)\.",
    re.DOTALL,
)


def put(place, value):
    """A place with a value instead of its None."""
    if isinstance(place, dict):
        return {name: put(inner, value) for name, inner in place.items()}
    if isinstance(place, list):
        return [put(inner, value) for inner in place]
    return value if place is None else place


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_no_wrong_value_is_told_in_words_of_pydantic(place):
    for value in VALUES:
        try:
            parse(**put(place, value))
        except ApiError as error:
            assert FORMS.fullmatch(error.message), error.message
