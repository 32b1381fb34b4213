# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Parts of the server without HTTP: text as tokens come, sampling, batches, and what happens when one fails."""

import asyncio
import json
import queue
import random
import threading
from unittest.mock import patch

import pytest
import torch
from anyio import CapacityLimiter
from serve_clients import ask, picture  # noqa: E402

from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module
from llava_uhd_v2_hf.serve.addresses import CheckedBackend
from llava_uhd_v2_hf.serve.decoding import CLIENT_DECODERS, DECODERS, Decoders, decode_images
from llava_uhd_v2_hf.serve.downloads import Downloader
from llava_uhd_v2_hf.serve.engine import Engine, Job, Piece, collate
from llava_uhd_v2_hf.serve.errors import ApiError
from llava_uhd_v2_hf.serve.limits import Limits
from llava_uhd_v2_hf.serve.metrics import Metrics
from llava_uhd_v2_hf.serve.prompts import Prompt, PromptMaker
from llava_uhd_v2_hf.serve.sampling import DrawnTokens, Sampler, make_sampler
from llava_uhd_v2_hf.serve.schema import parse_request
from llava_uhd_v2_hf.serve.server import load_folded
from llava_uhd_v2_hf.serve.text import AnswerText


TEXTS = [
    "What colour is top left?",
    "  two spaces,\n\n lines and\ttabs ",
    "中文和日本語のテキスト",
    "naïve café – “quotes” … 🙂🙃 emoji",
    "",
    " ",
]


@pytest.fixture(scope="module")
def tokenizer(answers_alone):
    return answers_alone.processor.tokenizer


@pytest.fixture
def engine(answers_alone, tokenizer):
    engine = Engine(answers_alone.model, tokenizer, 8, Metrics())
    yield engine
    engine.close()
    engine.join(20)


def pieces_of(tokenizer, ids, stop=()):
    """What an answer's text gives out for each token, and then at its end."""
    text, pieces = AnswerText(tokenizer, stop), []
    for token in ids:
        pieces.append(text.push(token))
        if text.stopped:
            return pieces
    return [*pieces, text.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_a_text_are_the_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) >= len(text.split())


def test_a_character_of_several_tokens_comes_whole(tokenizer):
    ids = tokenizer("🙂", add_special_tokens=False)["input_ids"]
    assert len(ids) >= 4
    assert [piece for piece in pieces_of(tokenizer, ids) if piece] == [tokenizer.decode(ids)]


def test_random_tokens_with_random_stop_strings(tokenizer):
    source = random.Random(0)
    words = [index for token, index in tokenizer.get_vocab().items() if not token.startswith("<0x")]
    stopped = 0
    for _ in range(300):
        ids = source.choices(words, k=source.randint(1, 30))
        text = tokenizer.decode(ids, skip_special_tokens=True)
        places = [source.randrange(len(text) + 1) for _ in range(source.randint(0, 3))]
        stop = [part for place in places if (part := text[place : place + source.randint(1, 6)])] + ["never"]
        for count in range(1, len(ids) + 1):
            text = tokenizer.decode(ids[:count], skip_special_tokens=True)
            if found := [text.find(part) for part in stop if part in text]:
                break
        pieces = pieces_of(tokenizer, ids, stop)
        assert "".join(pieces) == text[: min(found, default=len(text))]
        assert len(pieces) == count + (not found)
        stopped += bool(found)
    assert stopped > 100


def test_special_tokens_are_no_text(tokenizer):
    ids = tokenizer("top left", add_special_tokens=False)["input_ids"]
    for special in (tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids("<image>")):
        assert "".join(pieces_of(tokenizer, [ids[0], special, *ids[1:]])) == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("temperature", "top_p", "is_greedy"),
    [(None, None, True), (0, 0.5, True), (1e-9, None, True), (None, 0.9, False), (0.7, None, False)],
)
def test_what_is_greedy(temperature, top_p, is_greedy):
    assert (make_sampler(temperature, top_p, None) is None) == is_greedy


def test_draws_have_the_distribution_of_the_softmax():
    logits, sampler = torch.tensor([2.0, 1.0, 0.0, -1.0]), Sampler(2.0, 1.0, 0)
    drawn = torch.bincount(torch.tensor([sampler.draw(logits) for _ in range(4000)]), minlength=4) / 4000
    assert torch.allclose(drawn, (logits / 2).softmax(-1), atol=0.03)
    nucleus = Sampler(1.0, 0.9, 0)  # of 0.64, 0.24, 0.09, 0.03
    assert {nucleus.draw(logits) for _ in range(1000)} == {0, 1, 2}


def test_only_sampled_rows_are_changed():
    scores = torch.randn(3, 50)
    changed = DrawnTokens([None, Sampler(1.0, 1.0, 5), None])(None, scores)
    assert torch.equal(changed[[0, 2]], scores[[0, 2]])
    assert changed[1].argmax() == Sampler(1.0, 1.0, 5).draw(scores[1])
    assert changed[1].isfinite().sum() == 1


def prompt_of(answers_alone, request):
    inputs = {name: value for name, value in answers_alone.inputs(request).items() if name != "attention_mask"}
    return Prompt(inputs, request["max_tokens"])


class Client:
    """A job and what it got."""

    def __init__(self, prompt, stop=(), sampler=None):
        self.got = queue.Queue()
        self.job = Job(prompt, stop, sampler, self.got.put)

    def result(self):
        """Text and last piece, or the error."""
        text = ""
        while True:
            piece = self.got.get(timeout=60)
            if isinstance(piece, ApiError):
                return piece
            text += piece.text
            if piece.finish:
                return text, piece


def answer_all(engine, *clients):
    for client in clients:
        engine.submit(client.job)
    return [client.result() for client in clients]


REQUESTS = [
    ask("Hello", max_tokens=6),
    ask("What is this?", picture(112, 112, 1), max_tokens=9),
    ask(picture(56, 112, 2), picture(200, 90, 3), "Compare.", max_tokens=4),
]


def test_a_batch_is_padded_on_the_left(answers_alone, tokenizer):
    prompts = [prompt_of(answers_alone, request) for request in REQUESTS]
    batch = collate(prompts, tokenizer)
    lengths = [prompt.num_tokens for prompt in prompts]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, max(lengths))
    for row, mask, prompt in zip(batch["input_ids"], batch["attention_mask"], prompts):
        assert torch.equal(row[mask.bool()], prompt.inputs["input_ids"][0])
        assert mask[-1] == 1 and mask.sum() == prompt.num_tokens
    assert len(batch["pixel_values"]) == len(batch["image_sizes"]) == 3
    assert "pixel_values" not in collate(prompts[:1], tokenizer)


def test_a_row_that_is_done_gets_nothing_more(engine, answers_alone):
    clients = [Client(prompt_of(answers_alone, request)) for request in REQUESTS]
    answers = answer_all(engine, *clients)
    assert engine.metrics.registry.get_sample_value("llava_uhd_v2_batch_size_count") == 1
    assert [text for text, _ in answers] == [answers_alone.answer(request) for request in REQUESTS]
    assert [client.job.tokens for client in clients] == [request["max_tokens"] for request in REQUESTS]
    assert all(client.got.empty() for client in clients)


def test_the_end_token_ends_an_answer(answers_alone, tokenizer):
    tokens = answers_alone.tokens(REQUESTS[1])
    end = tokens[5]
    with patch.object(answers_alone.model.generation_config, "eos_token_id", [tokenizer.eos_token_id, end]):
        engine = Engine(answers_alone.model, tokenizer, 8, Metrics())
    [(text, last)] = answer_all(engine, Client(prompt_of(answers_alone, REQUESTS[1])))
    engine.close()
    count = tokens.index(end)
    assert last == Piece(last.text, count + 1, "stop")
    assert text == answers_alone.text(tokens[:count])


def test_one_request_that_fails_does_not_fail_the_others(engine, answers_alone, caplog):
    good = [prompt_of(answers_alone, request) for request in REQUESTS]
    broken = Prompt({"input_ids": good[1].inputs["input_ids"]}, 5)  # places for an image, but none
    clients = [Client(prompt) for prompt in (good[0], broken, *good[1:])]
    results = answer_all(engine, *clients)
    error = results.pop(1)
    assert isinstance(error, ApiError) and error.status == 500
    assert [text for text, _ in results] == [answers_alone.answer(request) for request in REQUESTS]
    assert "no image was passed" in caplog.text
    assert engine.alive
    assert answer_all(engine, Client(good[0]))[0][0] == answers_alone.answer(REQUESTS[0])


def test_too_little_memory_for_a_batch(engine, answers_alone):
    generate = answers_alone.model.generate

    def fail(**inputs):
        if len(inputs["input_ids"]) > 1 or len(inputs.get("image_sizes", ())) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(**inputs)

    with patch.object(answers_alone.model, "generate", fail):
        first, second, third = answer_all(engine, *(Client(prompt_of(answers_alone, request)) for request in REQUESTS))
    assert [first[0], second[0]] == [answers_alone.answer(request) for request in REQUESTS[:2]]
    assert third.status == 503 and "memory" in third.message


def test_waiting_and_running_jobs_end_when_the_engine_is_closed(answers_alone, tokenizer):
    engine = Engine(answers_alone.model, tokenizer, 2, Metrics())
    clients = [Client(prompt_of(answers_alone, ask("Hello", max_tokens=900))) for _ in range(5)]
    for client in clients:
        engine.submit(client.job)
    clients[0].got.get(timeout=60)
    engine.close()
    assert {client.result().code for client in clients} == {"stopping"}
    engine.join(20)
    assert not engine.alive
    with pytest.raises(ApiError, match="stopping"):
        engine.submit(Client(prompt_of(answers_alone, REQUESTS[0])).job)


def test_a_cancelled_job_that_waits_is_not_begun(engine, answers_alone):
    running, waiting = (Client(prompt_of(answers_alone, ask("Hello", max_tokens=100))) for _ in range(2))
    engine.max_batch = 1
    engine.submit(running.job)
    engine.submit(waiting.job)
    engine.withdraw(waiting.job)
    assert waiting.job not in engine._waiting
    assert running.result()[1].finish == "length"
    assert answer_all(engine, Client(prompt_of(answers_alone, REQUESTS[0])))[0][0] == answers_alone.answer(REQUESTS[0])
    assert waiting.got.empty() and waiting.job.tokens == 0


def test_few_requests_are_decoded_at_a_time_and_text_does_not_wait(answers_alone, monkeypatch):
    running, most, released = [], [], threading.Event()

    def run(self, work):
        running.append(work)
        most.append(len(running))
        released.wait(10)
        running.remove(work)
        return decode_images(work)

    monkeypatch.setattr(Decoders, "_run", run)
    maker = PromptMaker(answers_alone.processor, 4096, Limits(), Downloader(CheckedBackend()))
    image = picture(300, 200)
    request = parse_request(json.dumps({"model": "m", **ask("What?", image, image, image)}).encode())
    text = parse_request(json.dumps({"model": "m", **ask("What?")}).encode())

    async def make_all():
        own = CapacityLimiter(CLIENT_DECODERS)
        tasks = [asyncio.ensure_future(maker.make(request, own)) for _ in range(4)]
        while len(running) < CLIENT_DECODERS:
            await asyncio.sleep(0.001)
        tasks += [asyncio.ensure_future(maker.make(request)) for _ in range(8)]
        while len(running) < DECODERS:
            await asyncio.sleep(0.001)
        assert (await maker.make(text)).num_images == 0
        assert sum(work is not None for work in running) == DECODERS and not any(task.done() for task in tasks)
        released.set()
        return await asyncio.gather(*tasks)

    prompts = asyncio.run(make_all())
    assert {prompt.num_images for prompt in prompts} == {3}
    assert max(most) == DECODERS and not running


def test_the_projector_is_folded_once(talker, answers_alone, tokenizer, monkeypatch):
    folds, multiply = [], projector_module.multiply_weights
    monkeypatch.setattr(
        projector_module, "multiply_weights", lambda *args, **kw: folds.append(1) or multiply(*args, **kw)
    )
    monkeypatch.setattr(projector_module, "reordering_pays", lambda *args: True)  # as at the released size
    engine = Engine(load_folded(str(talker)), tokenizer, 8, Metrics())
    assert len(folds) == 1
    for _ in range(3):
        [(text, _)] = answer_all(engine, Client(prompt_of(answers_alone, REQUESTS[1])))
        assert text == answers_alone.answer(REQUESTS[1])
    engine.close()
    engine.join(20)
    assert len(folds) == 1 + 3  # those of `answers_alone`


@pytest.mark.parametrize("limit", [{"images": 0}, {"body_seconds": -1.0}, {"batch": 0}])
def test_limits_that_are_none(limit):
    with pytest.raises(ValueError, match=next(iter(limit))):
        Limits(**limit)
