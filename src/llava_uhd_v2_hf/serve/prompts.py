# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Requests -> prompts: fetches images, lets them be decoded and cut, and tokenises the conversation."""

import asyncio
import base64
import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from anyio import CapacityLimiter, to_thread
from PIL import Image
from transformers import BatchFeature

from ..data.labels import TEMPLATE_ERRORS
from ..model.image_loading_llava_uhd_v2 import is_data_url
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from ..model.processing_llava_uhd_v2 import LlavaUhdV2Processor
from .decoding import CLIENT_DECODERS, Damage, Decoders, Views
from .downloads import Downloader
from .errors import ApiError
from .limits import Limits
from .schema import ChatRequest, ImagePart, ImageURL, Message, TextPart


UNNAMED = ("", "application/octet-stream")  # media types of data URLs whose writer didn't know the image's format


@dataclass(frozen=True)
class Prompt:
    """What a model reads of one request.

    Args:
        inputs: `input_ids`, (1, n), and with images `pixel_values`, (i, p_max, 3 * patch * patch), and
            `image_sizes`, (i, 6).
        answer_tokens: longest answer, in tokens.
    """

    inputs: dict[str, torch.Tensor]
    answer_tokens: int

    @property
    def num_tokens(self) -> int:
        """Of the prompt, images included."""
        return self.inputs["input_ids"].shape[1]

    @property
    def num_images(self) -> int:
        """How many images it has."""
        return len(self.inputs.get("image_sizes", ()))


class PromptMaker:
    """Makes prompts with the processor of a model.

    Args:
        processor: the model's.
        context: tokens that the model reads and writes in all.
        limits: of requests.
        downloader: fetches images behind URLs.
    """

    def __init__(self, processor: LlavaUhdV2Processor, context: int, limits: Limits, downloader: Downloader):
        self.processor = processor
        self.context = context
        self.limits = limits
        self.downloader = downloader
        longest_token = max(map(len, processor.tokenizer.get_vocab()))
        self._max_characters = context * longest_token  # more can't be few enough tokens
        self._decoders = Decoders(processor.image_processor, limits)
        self._processor_lock = threading.Lock()  # a tokenizer can't be called by two threads at a time

    async def make(self, request: ChatRequest, decoders: CapacityLimiter | None = None) -> Prompt:
        """Makes the prompt of a request; without images it never waits for those that have some.

        Args:
            request: what to make it of.
            decoders: limiter of the client, see [`Decoders.decode`]; by default one for this request alone.

        Raises:
            ApiError: 400, if an image cannot be used, there are too many, or the prompt or the answer is too long.
        """
        self._check_texts(request)
        self._check_answer_tokens(request)
        places = list(image_places(request))
        if len(places) > self.limits.images:
            raise ApiError(
                400, f"There are {len(places)} images; a request may have {self.limits.images}.", param="messages"
            )
        try:
            async with asyncio.timeout(self.limits.download_seconds):
                files = await self._fetch_all(places)
        except TimeoutError:
            seconds = self.limits.download_seconds
            raise ApiError(400, f"Its images didn't arrive within {seconds:g} seconds.", param="messages") from None
        views = await self._decode(places, files, decoders or CapacityLimiter(CLIENT_DECODERS)) if places else None
        return await to_thread.run_sync(self._process, request, views, abandon_on_cancel=True)

    def _check_texts(self, request: ChatRequest) -> None:
        """Refuses what must not, or need not, come to the tokenizer.

        Raises:
            ApiError: 400, if there is too much text, a mark of an image in it, or an image that is not the user's.
        """
        mark, characters = self.processor.image_token, sum(map(num_characters, request.messages))
        if characters > self._max_characters:
            raise _too_long(f"The texts have {characters} characters; the model takes {self.context} tokens.")
        for turn, message in enumerate(request.messages):
            for number, part in enumerate(message.content):
                place = f"messages[{turn}].content[{number}]"
                if isinstance(part, ImagePart):
                    if message.role != "user":
                        raise ApiError(400, f"A message of the {message.role} can't have images.", param=place)
                elif mark in part.text:
                    raise ApiError(
                        400,
                        f"The text has `{mark}`, which marks an image; send images as parts of type `image_url`.",
                        param=place,
                    )

    def _check_answer_tokens(self, request: ChatRequest) -> None:
        max_tokens, limit = request.answer_tokens, self.limits.answer_tokens
        if max_tokens is not None and max_tokens > limit:
            param = "max_completion_tokens" if request.max_tokens is None else "max_tokens"
            raise ApiError(400, f"`{param}` is {max_tokens}; this server's answers have {limit} at most.", param=param)

    async def _fetch_all(self, places: list[tuple[str, ImageURL]]) -> list[bytes]:
        files, left = [], self.limits.download_bytes
        for place, source in places:
            with naming_image(place):
                if is_data_url(source.url):
                    files.append(await to_thread.run_sync(decode_data_url, source.url))
                else:
                    files.append(await self.downloader.fetch(source.url, left))
                    left -= len(files[-1])
        return files

    async def _decode(
        self, places: list[tuple[str, ImageURL]], files: list[bytes], decoders: CapacityLimiter
    ) -> Views:
        own = self.processor.image_processor.max_slices
        max_slices = [1 if source.detail == "low" else own for _, source in places]
        views = await self._decoders.decode(files, max_slices, decoders)
        if isinstance(views, Damage):
            raise unusable_image("messages" if views.index is None else places[views.index][0], views.message)
        return views

    def _process(self, request: ChatRequest, views: Views | None) -> Prompt:
        processor: Any = self.processor
        if views is not None:
            processor = copy.copy(processor)
            processor.image_processor = CutImages(processor.image_processor, views)
        try:
            with self._processor_lock:
                inputs = processor.apply_chat_template(
                    as_conversation(request),
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                )
        except (ValueError, *TEMPLATE_ERRORS) as error:
            raise ApiError(400, f"The messages cannot be used: {error}"[:1000], param="messages") from error
        inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
        return Prompt(inputs, self._answer_tokens(request, inputs["input_ids"].shape[1]))

    def _answer_tokens(self, request: ChatRequest, prompt_tokens: int) -> int:
        """How long the answer may be, with the context and the limits.

        Raises:
            ApiError: 400, if prompt and answer don't fit.
        """
        max_tokens, limit = request.answer_tokens, self.limits.prompt_tokens
        if limit is not None and prompt_tokens > limit:
            raise _too_long(f"The prompt has {prompt_tokens} tokens, images included; this server takes {limit}.")
        if prompt_tokens + (max_tokens or 1) > self.context:
            raise _too_long(
                f"The prompt has {prompt_tokens} tokens, images included, and the answer "
                f"{max_tokens or 'at least 1'}; together the model takes {self.context}."
            )
        return max_tokens or min(self.limits.answer_tokens, self.context - prompt_tokens)


def _too_long(message: str) -> ApiError:
    return ApiError(400, message, param="messages", code="context_length_exceeded")


@contextmanager
def naming_image(place: str) -> Iterator[None]:
    """Turns what is wrong with an image into the refusal of its request.

    Args:
        place: of the image in the request.

    Raises:
        ApiError: 400, for a ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise unusable_image(place, str(error)) from error


def unusable_image(place: str, problem: str) -> ApiError:
    """Makes the refusal of a request with an image that can't be used.

    Args:
        place: of the image in the request.
        problem: what is wrong with it.
    """
    return ApiError(400, f"The image cannot be used: {problem}"[:1000], param=place, code="invalid_image")


def num_characters(message: Message) -> int:
    """Of all texts of a message."""
    return sum(len(part.text) for part in message.content if isinstance(part, TextPart))


def image_places(request: ChatRequest) -> Iterator[tuple[str, ImageURL]]:
    """The images of a request with their places in it, in the order in which the model sees them."""
    for turn, message in enumerate(request.messages):
        for number, part in enumerate(message.content):
            if isinstance(part, ImagePart):
                yield f"messages[{turn}].content[{number}].image_url.url", part.image_url


class CutImages:
    """Stands for an image processor whose images are cut already.

    Args:
        image_processor: that cut them.
        views: what it returned.
    """

    def __init__(self, image_processor: LlavaUhdV2ImageProcessor, views: Views):
        self.image_processor = image_processor
        self.views = {name: torch.from_numpy(values) for name, values in views.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.image_processor, name)

    def __call__(self, images: object, **kwargs: object) -> BatchFeature:
        """Returns the views, whatever stands for the images."""
        return BatchFeature(self.views)


def as_conversation(request: ChatRequest) -> list[dict[str, Any]]:
    """The messages of a request as the processor takes them, with one pixel in the place of each image."""
    return [
        {
            "role": "system" if message.role == "developer" else message.role,
            "content": [
                {"type": "image", "image": Image.new("RGB", (1, 1))}
                if isinstance(part, ImagePart)
                else {"type": "text", "text": part.text}
                for part in message.content
            ],
        }
        for message in request.messages
    ]


def decode_data_url(url: str) -> bytes:
    """What is in a data URL.

    Raises:
        ValueError: if it is not of an image in base64.
    """
    header, comma, encoded = url.partition(",")
    header = header.lower().removeprefix("data:")
    kind, encoding = header.partition(";")[0], header.rpartition(";")[2]
    if not comma or encoding != "base64" or not (kind in UNNAMED or kind.startswith("image/")):
        raise ValueError("its data URL must begin like `data:image/png;base64,`.")
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError as error:
        raise ValueError(f"its base64 is broken ({error}).") from error


__all__ = [
    "CutImages",
    "Prompt",
    "PromptMaker",
    "as_conversation",
    "decode_data_url",
    "image_places",
    "naming_image",
    "num_characters",
    "unusable_image",
]
