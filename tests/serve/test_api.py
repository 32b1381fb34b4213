# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The server's answers to OpenAI's client over loopback: those of `generate`, whole, streamed and in batches."""

import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import openai
import pytest
from serve_clients import ServerProcess, as_body, ask, encode, good_requests, image_part, picture  # noqa: E402


GOOD = good_requests()
LONG = ask("Tell me a long story.", max_tokens=800)


@pytest.fixture(scope="module")
def server(talker):
    with ServerProcess(talker, "--allow-private-image-urls") as process:
        yield process


@pytest.fixture(scope="module")
def complete(server):
    """Asks for an answer with OpenAI's client."""
    client = server.client()

    def create(request, **more):
        return client.chat.completions.create(**{"model": server.model, **request, **more})

    return create


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def text_of(completion):
    return completion.choices[0].message.content


def streamed(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_models(server):
    client = server.client()
    assert [model.id for model in client.models.list()] == ["model"]
    assert client.models.retrieve("model").id == "model"
    with pytest.raises(openai.NotFoundError, match="no model `other`"):
        client.models.retrieve("other")


@pytest.mark.parametrize("number", range(len(GOOD)))
def test_answers_are_those_of_generate(complete, answers_alone, number):
    request = GOOD[number]
    completion = complete(request)
    assert text_of(completion) == answers_alone.answer(request)
    usage, prompt_tokens = completion.usage, answers_alone.inputs(request)["input_ids"].shape[1]
    assert (usage.prompt_tokens, usage.total_tokens) == (prompt_tokens, prompt_tokens + usage.completion_tokens)
    if "stop" in request:
        assert completion.choices[0].finish_reason == "stop" and usage.completion_tokens < request["max_tokens"]
    else:
        assert completion.choices[0].finish_reason == "length" and usage.completion_tokens == request["max_tokens"]


def test_the_answers_differ(answers_alone):
    assert len({answers_alone.answer(request) for request in GOOD}) >= len(GOOD) - 1


@pytest.mark.parametrize("number", range(len(GOOD)))
def test_a_stream_is_the_whole_answer(complete, number):
    request = GOOD[number]
    whole = complete(request)
    chunks = list(complete(request, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert streamed(chunks) == text_of(whole)
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + [
        whole.choices[0].finish_reason
    ]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_comes_as_it_is_made(complete):
    chunks = list(complete(LONG, max_tokens=20, stream=True))
    assert len(chunks) >= 20 and all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_that_straddle_tokens(complete, answers_alone, stream):
    tokens = answers_alone.tokens(LONG | {"max_tokens": 12})
    text, checked = answers_alone.text(tokens), 0
    for count in range(1, len(tokens)):
        before, after = answers_alone.text(tokens[:count]), answers_alone.text(tokens[: count + 1])
        stop = after[len(before) - 1 : len(before) + 1]
        if text.find(stop) != len(before) - 1:
            continue  # is found earlier
        answer = complete(LONG, max_tokens=12, stop=stop, stream=stream)
        if stream:
            assert streamed(answer) == before[:-1]
        else:
            assert text_of(answer) == before[:-1]
            assert answer.usage.completion_tokens == count + 1
            assert answer.choices[0].finish_reason == "stop"
        checked += 1
    assert checked >= 4


def test_what_only_begins_like_a_stop_string_is_kept(complete, answers_alone):
    text = answers_alone.answer(LONG | {"max_tokens": 12})
    for stop in (text[-3:] + "#", text[-1] + "#", text[:5] + "#"):
        assert text_of(complete(LONG, max_tokens=12, stop=[stop])) == text
        assert streamed(complete(LONG, max_tokens=12, stop=[stop], stream=True)) == text


def test_sampling(complete, answers_alone):
    greedy = answers_alone.answer(LONG | {"max_tokens": 20})
    draw = {"max_tokens": 20, "temperature": 1.5}
    answers = [text_of(complete(LONG, seed=seed, **draw)) for seed in range(4)]
    assert answers == [text_of(complete(LONG, seed=seed, **draw)) for seed in range(4)]
    assert len({*answers, greedy}) == 5
    assert text_of(complete(LONG, **draw)) != text_of(complete(LONG, **draw))
    for settings in ({"temperature": 0}, {"temperature": 1e-30}, {"temperature": 1, "top_p": 0}, {"seed": 3}):
        assert text_of(complete(LONG, max_tokens=20, **settings)) == greedy
    assert text_of(complete(LONG, max_tokens=20, top_p=1, seed=1)) != greedy


def test_batches_answer_as_one_by_one(server, complete, answers_alone):
    sampled = [
        (ask("Hello", picture(100, 60 + 20 * seed, seed), temperature=1.2, top_p=0.9, seed=seed), None)
        for seed in range(4)
    ]
    requests = [(request, answers_alone.answer(request)) for request in GOOD] * 2
    requests += [(request, text_of(complete(request))) for request, _ in sampled]
    batches, rows = server.metric("batch_size_count"), server.metric("batch_size_sum")
    with ThreadPoolExecutor(len(requests)) as pool:
        streams = [number % 2 == 0 for number in range(len(requests))]
        answers = list(pool.map(lambda request, stream: complete(request[0], stream=stream), requests, streams))
        texts = list(pool.map(lambda answer, stream: (streamed if stream else text_of)(answer), answers, streams))
    assert texts == [answer for _, answer in requests]
    rows, batches = server.metric("batch_size_sum") - rows, server.metric("batch_size_count") - batches
    assert rows == len(requests) and batches <= len(requests) / 3


def test_max_completion_tokens_and_the_default(complete):
    request = {name: value for name, value in LONG.items() if name != "max_tokens"}
    assert complete(request, max_completion_tokens=3).usage.completion_tokens == 3
    completion = complete(request)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.total_tokens == 1024  # what the model reads is less than the longest answer


def test_the_context_is_kept(complete):
    prompt_tokens = complete(LONG, max_tokens=1).usage.prompt_tokens
    assert complete(LONG, max_tokens=1024 - prompt_tokens).usage.total_tokens == 1024
    with pytest.raises(openai.BadRequestError, match="together the model takes 1024") as error:
        complete(LONG, max_tokens=1025 - prompt_tokens)
    assert error.value.code == "context_length_exceeded"


def test_values_that_mean_nothing_are_taken(complete, answers_alone):
    neutral = {
        "n": 1,
        "logprobs": False,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "stop": None,
        "temperature": None,
        "user": "somebody",
        "metadata": {"purpose": "test"},
    }
    assert text_of(complete(GOOD[1], **neutral)) == answers_alone.answer(GOOD[1])


def test_other_ways_to_write_the_same(complete, answers_alone):
    url = GOOD[1]["messages"][0]["content"][1]["image_url"]["url"]
    for start in ("data:;base64,", "DATA:image/png;base64,"):
        image = image_part(url.replace("data:image/png;base64,", start))
        request = ask("What colour is top left?", image, max_tokens=16.0, n=1.0, seed=7.0)
        assert text_of(complete(request)) == answers_alone.answer(GOOD[1])


def test_an_answer_can_be_sent_back(complete, answers_alone):
    first = complete(GOOD[1])
    messages = [
        *GOOD[1]["messages"],
        first.choices[0].message.model_dump(),
        {"role": "user", "content": "And now?"},
    ]
    second = complete({"messages": messages, "max_tokens": 8})
    history = [*messages[:1], {"role": "assistant", "content": text_of(first)}, messages[2]]
    assert text_of(second) == answers_alone.answer({"messages": history, "max_tokens": 8})


def test_developer_is_another_name_of_system(complete):
    def answer(role):
        turns = [{"role": role, "content": "Be short."}, *GOOD[1]["messages"]]
        return complete({"messages": turns, "max_tokens": 8})

    assert text_of(answer("developer")) == text_of(answer("system"))
    assert answer("system").usage.prompt_tokens != complete(GOOD[1]).usage.prompt_tokens


@pytest.fixture
def pictures():
    """A web server with one picture, at any path but /gone."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if self.path == "/gone" else 200)
            self.end_headers()
            self.wfile.write(encode(picture(112, 112, 2)))

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_images_behind_urls(complete, answers_alone, pictures):
    by_url = ask("What colour is top left?", image_part(f"{pictures}/a.png?size=7"), max_tokens=16)
    assert text_of(complete(by_url)) == answers_alone.answer(GOOD[1])
    with pytest.raises(openai.BadRequestError, match="status 404") as error:
        complete(ask(image_part(f"{pictures}/gone")))
    assert error.value.param == "messages[0].content[0].image_url.url"


def test_a_client_that_goes_away_is_not_answered_on(server, complete):
    cancelled, tokens = server.metric("cancelled_total"), server.metric("answer_tokens_total")
    stream = complete(LONG, stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: server.metric("cancelled_total") == cancelled + 1)
    wait_until(lambda: server.metric("running") == 0)  # else the next request may be taken for running while it isn't

    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", "/v1/chat/completions", as_body(server, LONG), {"Content-Type": "application/json"})
    wait_until(lambda: server.metric("running") == 1)
    connection.close()
    wait_until(lambda: server.metric("cancelled_total") == cancelled + 2)
    wait_until(lambda: server.metric("running") == 0)
    assert server.metric("answer_tokens_total") - tokens < 2 * LONG["max_tokens"] * 0.8
    assert server.metric("in_hand") == 0


def test_one_that_goes_away_does_not_disturb_its_batch(server, complete, answers_alone):
    with ThreadPoolExecutor(4) as pool:
        kept = [pool.submit(complete, LONG, max_tokens=200) for _ in range(3)]
        stream = complete(LONG, stream=True)
        next(iter(stream))
        stream.close()
        assert {text_of(answer.result()) for answer in kept} == {answers_alone.answer(LONG | {"max_tokens": 200})}


def test_a_body_that_never_comes_to_its_end(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        connection.sendall(f'{head}Content-Length: 1000\r\n\r\n{{"model"'.encode())
        wait_until(lambda: server.metric("in_hand") == 1)
    wait_until(lambda: server.metric("in_hand") == 0)


def test_every_answer_has_an_id_that_the_log_has_too(server):
    body = as_body(server, GOOD[1])
    status, value, headers = server.send(body)
    assert status == 200 and headers["x-request-id"] == value["id"]
    usage = value["usage"]
    line = next(line for line in server.log.read_text().splitlines() if value["id"] in line)
    assert f"1 images, {usage['prompt_tokens']} prompt tokens, {usage['completion_tokens']} answer tokens" in line


def test_events_are_json_and_end_with_done(server):
    _, text, headers = server.send(as_body(server, GOOD[1] | {"stream": True}))
    assert headers["content-type"].startswith("text/event-stream")
    events = text.removesuffix("\n\n").split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk" for event in events[:-1])


def test_health_and_metrics(server, complete):
    assert server.send(b"", method="GET", path="/health")[:2] == (200, {"status": "ok"})
    names = ["prompt_tokens_total", "answer_tokens_total", "images_total", "request_seconds_count"]
    before = [server.metric(name) for name in names]
    usage = complete(GOOD[3]).usage
    wait_until(lambda: server.metric("in_hand") == 0)
    gained = [server.metric(name) - old for name, old in zip(names, before)]
    assert gained == [usage.prompt_tokens, usage.completion_tokens, 2, 1]
    refused = server.metric('refused_total{code="model_not_found"}') if "model_not_found" in _metrics(server) else 0
    with pytest.raises(openai.NotFoundError):
        complete(GOOD[0], model="other")
    assert server.metric('refused_total{code="model_not_found"}') == refused + 1
    assert "llava_uhd_v2_waiting 0.0" in _metrics(server)


def _metrics(server):
    return server.send(b"", method="GET", path="/metrics")[1]
