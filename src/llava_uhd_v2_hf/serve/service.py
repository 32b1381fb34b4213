# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a server has in common for all requests: the model's engine, the way to prompts, limits and counters."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .engine import Engine, Job, Piece, stopping
from .errors import ApiError
from .limits import Limits
from .metrics import Metrics
from .prompts import Prompt, PromptMaker
from .sampling import make_sampler
from .schema import ChatRequest


logger = logging.getLogger(__name__)


@dataclass
class Service:
    """Parts of a server, and the answering of one request with them.

    Args:
        name: under which the model is served.
        created: when the server was started, in seconds since 1970.
        prompts: makes prompts of requests.
        engine: answers them.
        metrics: counts.
        limits: of requests.
        api_key: what clients must send; None if they need none.
    """

    name: str
    created: int
    prompts: PromptMaker
    engine: Engine
    metrics: Metrics
    limits: Limits
    api_key: str | None = None
    in_hand: int = field(default=0, init=False)
    closed: bool = field(default=False, init=False)
    _tasks: set[asyncio.Task] = field(default_factory=set, init=False)

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Runs the current task's work until the server stops.

        Raises:
            ApiError: 503, if the server stops before the work ends.
        """
        task = asyncio.current_task()
        assert task is not None
        if self.closed:
            raise stopping()
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self.closed and task.uncancel() == 0:
                raise stopping() from None
            raise
        finally:
            self._tasks.discard(task)

    def close(self) -> None:
        """Ends every request with an error: those that are read or prepared, and those that the engine has."""
        self.closed = True
        self.engine.close()
        for task in self._tasks:
            task.cancel()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Takes a request in hand, if there is room for it.

        Raises:
            ApiError: 429, if there are as many as the limit.
        """
        if self.in_hand >= self.limits.requests:
            raise ApiError(
                429,
                f"The server has {self.limits.requests} requests in hand, its limit; try again later.",
                code="rate_limit_exceeded",
                retry_after=1,
            )
        self.in_hand += 1
        self.metrics.in_hand.set(self.in_hand)
        try:
            yield
        finally:
            self.in_hand -= 1
            self.metrics.in_hand.set(self.in_hand)

    def check_name(self, name: str) -> None:
        """Whether this is the model that is served.

        Raises:
            ApiError: 404, if it is another.
        """
        if name != self.name:
            raise ApiError(
                404,
                f"There is no model `{name[:200]}` here; this server has `{self.name}`.",
                param="model",
                code="model_not_found",
            )

    async def answer(self, request: ChatRequest, prompt: Prompt, label: str) -> AsyncGenerator[Piece]:
        """The pieces of an answer; the job is withdrawn when no more are asked for.

        Args:
            request: says how to answer.
            prompt: of the request.
            label: of the line in the log.

        Raises:
            ApiError: if the engine fails or stops.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Piece | ApiError]()
        job = Job(
            prompt,
            request.stop or (),
            make_sampler(request.temperature, request.top_p, request.seed),
            lambda piece: loop.call_soon_threadsafe(queue.put_nowait, piece),
        )
        start, end = time.monotonic(), "cancelled"
        self.engine.submit(job)
        try:
            while True:
                piece = await queue.get()
                if isinstance(piece, ApiError):
                    end = "failed"
                    raise piece
                if piece.tokens == 1:
                    self.metrics.first_token_seconds.observe(time.monotonic() - start)
                if piece.finish:
                    end = piece.finish
                    yield piece
                    return
                yield piece
        finally:
            self.engine.withdraw(job)
            self._book(prompt, job.tokens, end, time.monotonic() - start, label)

    def _book(self, prompt: Prompt, tokens: int, end: str, seconds: float, label: str) -> None:
        self.metrics.prompt_tokens.inc(prompt.num_tokens)
        self.metrics.answer_tokens.inc(tokens)
        self.metrics.images.inc(prompt.num_images)
        if end in ("stop", "length"):
            self.metrics.request_seconds.observe(seconds)
        elif end == "cancelled":
            self.metrics.cancelled.inc()
        logger.info(
            "%s: %s, %d images, %d prompt tokens, %d answer tokens, %.3f s",
            label,
            end,
            prompt.num_images,
            prompt.num_tokens,
            tokens,
            seconds,
        )


__all__ = ["Service"]
