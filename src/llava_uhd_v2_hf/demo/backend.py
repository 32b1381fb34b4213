# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Back end of the Gradio demo: loads one model at a time and streams answers.

All pages share one back end. It keeps the cache of the conversation that was answered last; a page that continues
another conversation encodes that one again.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, TextIteratorStreamer

from ..inference.chat import Chat
from ..inference.checkpoints import check_checkpoint
from ..inference.inspection import Inspection, inspect_image
from ..inference.loading import load_image_settings, load_network, read_image
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from ..model.processing_llava_uhd_v2 import LlavaUhdV2Processor
from ..pictures.attention import AnswerAttention, attend
from ..pictures.attention_picture import draw_attention
from ..pictures.pyramid import PyramidParts, draw_pyramid
from ..utils.errors import describe_error, expected_errors


@dataclass(frozen=True)
class Subject:
    """What a conversation is about.

    Args:
        model: folder or Hub id, one of the backend's.
        image: file.
        max_slices: of the image; None for the model's own.
    """

    model: str
    image: str
    max_slices: int | None = None


@dataclass
class Conversation:
    """A conversation of a page.

    Args:
        subject: what it is about.
        messages: as of a [`Chat`], whole turns only.
        attention: of the last answer; None before there is one.
        no_attention: why there is none, for a reader.
    """

    subject: Subject
    messages: list[dict[str, Any]] = field(default_factory=list)
    attention: AnswerAttention | None = None
    no_attention: str = "Ask something first."

    @property
    def turns(self) -> list[tuple[str, str]]:
        """(role, text) of every message."""
        return [(message["role"], message["content"][-1]["text"]) for message in self.messages]


class Backend:
    """Answers and draws; for one caller at a time.

    Args:
        models: folders or Hub ids of checkpoints or adapters.

    Raises:
        OSError, ValueError: if one of them is no checkpoint.
    """

    def __init__(self, models: Sequence[str]):
        for model in models:
            check_checkpoint(model)
        self.models = list(models)
        self.loaded: tuple[str, LlavaUhdV2ForConditionalGeneration, LlavaUhdV2Processor] | None = None
        self.chat: Chat | None = None
        self.owner: Conversation | None = None  # whose chat it is

    def load(self, model: str) -> tuple[LlavaUhdV2ForConditionalGeneration, LlavaUhdV2Processor]:
        """A model and its processor; the one before is let go first.

        Raises:
            OSError, ValueError: if it can't be loaded.
        """
        if self.loaded is None or self.loaded[0] != model:
            self.loaded = self.chat = self.owner = None
            if torch.accelerator.is_available():
                torch.accelerator.empty_cache()
            self.loaded = (model, load_network(model), AutoProcessor.from_pretrained(model))
        return self.loaded[1:]

    def inspect(self, subject: Subject) -> Inspection:
        """How the image is cut; needs no weights.

        Raises:
            OSError, ValueError: if the image can't be used.
        """
        image_processor, config = load_image_settings(subject.model)
        image = read_image(Path(subject.image), image_processor)
        return inspect_image(image, image_processor, config, subject.max_slices)

    def draw_pyramid(self, subject: Subject) -> Image.Image:
        """See [`draw_pyramid`].

        Raises:
            OSError, ValueError: if model or image can't be used.
        """
        network, processor = self.load(subject.model)
        image = read_image(Path(subject.image), processor.image_processor)
        return draw_pyramid(image, PyramidParts.of_model(network, processor.image_processor), subject.max_slices)

    def draw_attention(self, conversation: Conversation, wanted: str | None) -> tuple[Image.Image, list[int]]:
        """The attention of the last answer, and which of its tokens, counted from 0, it is that of.

        Args:
            conversation: with an answer.
            wanted: see [`AnswerAttention.find_tokens`].

        Raises:
            ValueError: if there is no attention, or no such token.
        """
        if conversation.attention is None:
            raise ValueError(conversation.no_attention)
        tokens = conversation.attention.find_tokens(wanted)
        question = conversation.turns[-2][1]
        picture = draw_attention(self.inspect(conversation.subject), conversation.attention, tokens, question)
        return picture, tokens

    def answer(self, conversation: Conversation, question: str, max_new_tokens: int) -> Iterator[str]:
        """The answer so far, whenever there is more of it; then the conversation has the turn and its attention.

        A caller that stops early stops the model too, and the conversation stays as it was.

        Args:
            conversation: that goes on.
            question: the user's message.
            max_new_tokens: longest answer, in tokens.

        Raises:
            OSError, ValueError: if model or image can't be used.
        """
        chat = self._chat_of(conversation)
        streamer = _Streamer(chat.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        with ThreadPoolExecutor(max_workers=1) as pool:
            answer = pool.submit(chat.ask, question, max_new_tokens=max_new_tokens, streamer=streamer)
            answer.add_done_callback(streamer.finish)
            try:
                text = ""
                for piece in streamer:
                    text += piece
                    yield text
                yield answer.result()
            finally:
                streamer.stopped = True
        conversation.messages, conversation.attention = chat.messages, None
        try:
            conversation.attention = attend(chat)
        except expected_errors() as error:
            conversation.no_attention = describe_error(error)

    def _chat_of(self, conversation: Conversation) -> Chat:
        network, processor = self.load(conversation.subject.model)
        if self.owner is not conversation or self.chat is None:
            self.chat = self.owner = None
            image = read_image(Path(conversation.subject.image), processor.image_processor)
            self.chat = Chat(network, processor, [image], conversation.subject.max_slices)
            self.chat.messages = conversation.messages
            self.owner = conversation
        return self.chat


class _Stopped(Exception):
    """Nobody waits for the answer any more."""


class _Streamer(TextIteratorStreamer):
    """Ends when the answer ends in an error too, and ends the answer when it is stopped."""

    stopped = False

    def put(self, value: torch.Tensor) -> None:
        if self.stopped:
            raise _Stopped
        super().put(value)

    def finish(self, answer: Future) -> None:
        self.text_queue.put(self.stop_signal)


__all__ = ["Backend", "Conversation", "Subject"]
