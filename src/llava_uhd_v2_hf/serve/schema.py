# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a request of chat completions may say; anything else that would change the answer is refused by its name."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from .errors import ApiError
from .refusals import refuse


# Commas and brackets of a body: each may begin a value, which is read in a hundred times its memory
MAX_MARKS = 50_000
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]


def _as_integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# also written as 20.0, the only form of languages without integers
Tokens = Annotated[int, Field(ge=1, lt=2**63), BeforeValidator(_as_integer)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63), BeforeValidator(_as_integer)]


class Part(BaseModel):
    """A part of a request. A key that it doesn't know may only have a value that means the same as leaving it out."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    neutral: ClassVar[dict[str, list[Any]]] = {}
    """Values besides null that change nothing, by key."""

    @model_validator(mode="after")
    def refuse_what_is_not_supported(self) -> Self:
        """Looks at the keys that are no fields.

        Raises:
            PydanticCustomError: naming the first that would change the answer.
        """
        for name, value in (self.model_extra or {}).items():
            neutral = self.neutral.get(name, [])
            if value is not None and not any(_are_same(value, other) for other in neutral):
                raise PydanticCustomError("unsupported", "unsupported", {"name": name, "neutral": neutral})
        return self


def _are_same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)  # to Python, 1 is True


class TextPart(Part):
    """Text of a message."""

    type: Literal["text"]
    text: Text


class ImageURL(Part):
    """Where an image is, and whether it is cut into slices."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Part):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageURL


Parts = Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(min_length=1)]
Stops = Annotated[list[Stop], Field(max_length=4)]


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else _check_list(content, "parts")


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else _check_list(stop, "strings")


def _check_list(value: Any, entries: str) -> Any:
    if not isinstance(value, list):
        raise PydanticCustomError("text_or_list", "no list", {"entries": entries})
    return value


class Message(Part):
    """A turn of the conversation; its text may come as a string or in parts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Parts, FailFast(), BeforeValidator(_as_parts, json_schema_input_type=Text | Parts)]
    neutral: ClassVar[dict[str, list[Any]]] = {"tool_calls": [[]], "annotations": [[]]}


class StreamOptions(Part):
    """What a stream has besides the answer."""

    include_usage: bool | None = None
    neutral: ClassVar[dict[str, list[Any]]] = {"include_obfuscation": [False]}


class ChatRequest(Part):
    """A request of chat completions."""

    model: str
    messages: Annotated[list[Message], FailFast()] = Field(min_length=1)
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    seed: Seed | None = None
    stop: Annotated[Stops, BeforeValidator(_as_list, json_schema_input_type=Stop | Stops)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # these say who asks and how to book it, not what
    metadata: Any = None
    prompt_cache_key: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None
    neutral: ClassVar[dict[str, list[Any]]] = {
        "frequency_penalty": [0],
        "function_call": ["none", "auto"],
        "functions": [[]],
        "logit_bias": [{}],
        "logprobs": [False],
        "modalities": [["text"]],
        "n": [1],
        "parallel_tool_calls": [True, False],
        "presence_penalty": [0],
        "response_format": [{"type": "text"}],
        "tool_choice": ["none", "auto"],
        "tools": [[]],
        "top_logprobs": [0],
    }

    @property
    def answer_tokens(self) -> int | None:
        """The longest answer that is asked for, in tokens."""
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens


def parse_request(body: bytes) -> ChatRequest:
    """JSON of a request -> the request.

    Raises:
        ApiError: 400, if it is no JSON, or says something wrong, contradictory or unsupported.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_MARKS:
        raise ApiError(400, f"The request's body has more than {MAX_MARKS} commas and brackets.", code="invalid_json")
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise refuse(error) from None
    if request.answer_tokens != (request.max_completion_tokens or request.max_tokens):
        raise ApiError(400, "`max_tokens` and `max_completion_tokens` differ; send one of them.", param="max_tokens")
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "`stream_options` needs `stream: true`.", param="stream_options")
    return request


__all__ = [
    "ChatRequest",
    "ImagePart",
    "ImageURL",
    "Message",
    "Part",
    "StreamOptions",
    "TextPart",
    "parse_request",
]
