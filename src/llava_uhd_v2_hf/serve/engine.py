# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The thread that owns the model: the requests that wait while a batch runs are the next batch."""

import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from .errors import ApiError
from .metrics import Metrics
from .prompts import Prompt
from .sampling import DrawnTokens, Sampler
from .text import AnswerText


# How long a request waits for others to make a batch with: for any, and for those that are known to be on their way
COMPANY_SECONDS, EXPECTED_SECONDS = 0.01, 0.05
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Args:
        text: maybe empty.
        tokens: of the answer so far.
        finish: why the answer ends here, "stop" or "length"; None if it goes on.
    """

    text: str
    tokens: int
    finish: str | None = None


class Job:
    """A request in the hands of the engine.

    Args:
        prompt: what the model reads.
        stop: strings that end the answer.
        sampler: draws the tokens; None for a greedy answer.
        emit: gets the pieces of the answer, or the error instead of the last; called by the engine's thread.
    """

    def __init__(
        self, prompt: Prompt, stop: Sequence[str], sampler: Sampler | None, emit: Callable[[Piece | ApiError], object]
    ):
        self.prompt = prompt
        self.stop = stop
        self.sampler = sampler
        self.emit = emit
        self.done = False
        self.tokens = 0

    def fail(self, error: ApiError) -> None:
        """Ends the answer with an error, if it is not at its end."""
        if not self.done:
            self.done = True
            self.emit(error)


class Row:
    """The answer of a job while its batch runs.

    Args:
        job: the request.
        tokenizer: of the engine.
        ends: ids of the tokens that end an answer.
    """

    def __init__(self, job: Job, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]):
        self.job = job
        self.ends = ends
        self.text = AnswerText(tokenizer, job.stop)

    def push(self, token: int) -> None:
        """Hands the next token's text to the job's client, and ends the job if it is the last."""
        job, ended = self.job, token in self.ends
        job.tokens += 1
        text = "" if ended else self.text.push(token)
        last = ended or job.tokens >= job.prompt.answer_tokens
        if last and not self.text.stopped:
            text += self.text.finish()
        finish = "stop" if ended or self.text.stopped else "length" if last else None
        job.done = job.done or finish is not None
        job.emit(Piece(text, job.tokens, finish))


class Rows(StoppingCriteria):
    """Ends the rows of a batch one by one.

    Args:
        rows: of the batch.
    """

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **kwargs: object) -> torch.Tensor:
        """
        Args:
            input_ids: (b, n), prompts and answers so far.
            scores: (b, vocabulary); not used.
            kwargs: not used.

        Returns:
            (b,), which rows are at their end.
        """
        for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            if not row.job.done:
                row.push(token)
        return torch.tensor([row.job.done for row in self.rows], device=input_ids.device)


class Engine:
    """Answers jobs in batches, in a thread of its own, in the order in which they come.

    Args:
        model: in evaluation mode; used by no other thread.
        tokenizer: likewise.
        max_batch: jobs that are answered together.
        metrics: counts what is done.
    """

    def __init__(
        self,
        model: LlavaUhdV2ForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        max_batch: int,
        metrics: Metrics,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.metrics = metrics
        self.settings = copy.deepcopy(model.generation_config)
        self.settings.update(do_sample=False, temperature=None, top_p=None, top_k=None, num_beams=1)
        ends = self.settings.eos_token_id
        self.ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._expected = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether jobs are still answered."""
        return self._thread.is_alive() and not self._closed

    def submit(self, job: Job) -> None:
        """Puts a job at the end of the queue.

        Raises:
            ApiError: 503, if the engine has ended.
        """
        with self._changed:
            if not self.alive:
                raise stopping()
            self._waiting.append(job)
            self.metrics.waiting.set(len(self._waiting))
            self._changed.notify()

    def withdraw(self, job: Job) -> None:
        """Gives up a job, waiting or running: nobody reads its answer any more."""
        job.done = True
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self.metrics.waiting.set(len(self._waiting))

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """While this lasts, a job is on its way: the next batch waits for it, though not for long."""
        with self._changed:
            self._expected += 1
        try:
            yield
        finally:
            with self._changed:
                self._expected -= 1

    def close(self) -> None:
        """Ends every job with an error, and the thread after its present step."""
        with self._changed:
            self._closed = True
            jobs = [*self._waiting, *self._running]
            self._changed.notify()
        for job in jobs:
            job.fail(stopping())

    def join(self, seconds: float) -> None:
        """Waits for the thread's end, at most so many seconds."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while batch := self._next_batch():
            self._answer_all(batch)
            with self._changed:
                self._running = []
            self.metrics.running.set(0)

    def _next_batch(self) -> list[Job]:
        """The next jobs, when there are some; none at the end."""
        with self._changed:
            while not self._closed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                self._changed.wait_for(self._is_full, COMPANY_SECONDS)
                self._changed.wait_for(lambda: self._is_full() or not self._expected, EXPECTED_SECONDS)
                self._running = [self._waiting.popleft() for _ in range(min(self.max_batch, len(self._waiting)))]
                self.metrics.waiting.set(len(self._waiting))
                if self._running:
                    return self._running
        return []

    def _is_full(self) -> bool:
        return self._closed or len(self._waiting) >= self.max_batch

    def _answer_all(self, batch: list[Job]) -> None:
        """Answers a batch; after an error, each job that has no token yet alone."""
        error = self._try_batch(batch)
        if error is None:
            return
        for job in batch:
            if not job.done:
                failure = error if job.tokens or len(batch) == 1 else self._try_batch([job])
                if failure is not None:
                    job.fail(failure)

    def _try_batch(self, batch: list[Job]) -> ApiError | None:
        try:
            self._answer(batch)
        except torch.OutOfMemoryError:
            return ApiError(503, "The server's memory is too small for this; send fewer or smaller images.")
        except Exception:
            logger.exception("A batch of %d failed", len(batch))
            return ApiError(500, "The server failed; its log says why.")
        return None

    def _answer(self, batch: list[Job]) -> None:
        start = time.monotonic()
        self.metrics.batch_size.observe(len(batch))
        self.metrics.running.set(len(batch))
        rows = Rows([Row(job, self.tokenizer, self.ends) for job in batch])
        inputs = collate([job.prompt for job in batch], self.tokenizer)
        settings = copy.copy(self.settings)
        settings.max_new_tokens = max(job.prompt.answer_tokens for job in batch)
        self.model.generate(
            **{name: value.to(self.model.device) for name, value in inputs.items()},
            generation_config=settings,
            logits_processor=LogitsProcessorList([DrawnTokens([job.sampler for job in batch])]),
            stopping_criteria=StoppingCriteriaList([rows]),
        )
        self.metrics.batch_seconds.observe(time.monotonic() - start)


def collate(prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """Prompts in one batch, padded on the left; their images in one row each.

    Returns:
        `input_ids` and `attention_mask`, (b, n), and with images `pixel_values`, (i, p_max, 3 * patch * patch), and
        `image_sizes`, (i, 6).
    """
    ids = [prompt.inputs["input_ids"][0].tolist() for prompt in prompts]
    inputs = dict(tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt"))
    images = [prompt.inputs for prompt in prompts if prompt.num_images]
    if images:
        rows = [row for entry in images for row in entry["pixel_values"]]
        inputs["pixel_values"] = pad_sequence(rows, batch_first=True)
        inputs["image_sizes"] = torch.cat([entry["image_sizes"] for entry in images])
    return inputs


def stopping() -> ApiError:
    """What a request is refused with when the server stops."""
    return ApiError(503, "The server is stopping; try again later.", code="stopping", retry_after=5)


__all__ = ["Engine", "Job", "Piece", "Row", "Rows", "collate", "stopping"]
