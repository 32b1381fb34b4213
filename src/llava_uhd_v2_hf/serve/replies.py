# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Answers in the API's JSON, whole and as a stream of server-sent events."""

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from .engine import Piece
from .errors import ApiError


class Reply:
    """The answer to one request.

    Args:
        model: the name under which the model is served.
        prompt_tokens: of the request, images included.
    """

    def __init__(self, model: str, prompt_tokens: int):
        self.model = model
        self.prompt_tokens = prompt_tokens
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def whole(self, text: str, last: Piece) -> dict[str, Any]:
        """The answer in one piece.

        Args:
            text: all of it.
            last: its last piece.
        """
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": last.finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage(last.tokens)}

    async def events(self, pieces: AsyncIterator[Piece], include_usage: bool) -> AsyncIterator[str]:
        """The answer as events, and behind them [DONE]; an error takes the place of the rest.

        Args:
            pieces: of the answer.
            include_usage: whether the last event but one says how many tokens there were.
        """
        open_usage = {"usage": None} if include_usage else {}
        yield self._event({"role": "assistant", "content": ""}, None, **open_usage)
        tokens = 0
        try:
            async for piece in pieces:
                tokens = piece.tokens
                if piece.text:
                    yield self._event({"content": piece.text}, None, **open_usage)
                if piece.finish:
                    yield self._event({}, piece.finish, **open_usage)
        except ApiError as error:
            yield encode_event(error.body)
            return
        if include_usage:
            yield encode_event({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(tokens)})
        yield "data: [DONE]\n\n"

    def _event(self, delta: dict[str, Any], finish: str | None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return encode_event({**self._head("chat.completion.chunk"), "choices": [choice], **more})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _usage(self, answer_tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": answer_tokens,
            "total_tokens": self.prompt_tokens + answer_tokens,
        }


def encode_event(value: dict[str, Any]) -> str:
    """A server-sent event of a value."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


__all__ = ["Reply", "encode_event"]
