# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What the server refuses: broken and hostile requests, and what is beyond its limits; it goes on answering."""

import http.client
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import openai
import pytest
from serve_clients import (  # noqa: E402
    PATH,
    ServerProcess,
    as_body,
    ask,
    bad_requests,
    encode,
    image_part,
    picture,
)


pytestmark = pytest.mark.slow  # servers in processes of their own
BAD = {name: case for name, *case in bad_requests()}
HELLO = ask("Hello there.", max_tokens=4)


@pytest.fixture(scope="module")
def server(talker):
    """As it is without a flag."""
    with ServerProcess(talker) as process:
        yield process
        log = process.log.read_text()
        assert "Traceback" not in log and "ERROR" not in log


LIMITS = {
    "--name": "org/tiny",
    "--api-key": "secret",
    "--max-requests": 2,
    "--max-request-bytes": 200_000,
    "--max-images": 2,
    "--max-image-pixels": 20_000,
    "--max-prompt-tokens": 90,
    "--max-answer-tokens": 700,
    "--max-download-bytes": 5_000,
    "--download-seconds": 1,
    "--body-seconds": 1,
}


@pytest.fixture(scope="module")
def limited(talker):
    flags = [part for pair in LIMITS.items() for part in pair]
    with ServerProcess(talker, *flags, "--allow-private-image-urls") as process:
        process.model = "org/tiny"
        yield process


@pytest.fixture(scope="module")
def client(limited):
    return limited.client(api_key="secret")


def refusal(client, request, **more):
    """Status and error of the answer that OpenAI's client gets."""
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(**{"model": "org/tiny", **request, **more})
    return error.value.status_code, error.value.body


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_with_a_reason(server, name):
    request, status, words = BAD[name]
    found, value, headers = server.send(as_body(server, request))
    assert (found, headers["content-type"]) == (status, "application/json")
    assert set(value) == {"error"} and set(value["error"]) == {"message", "type", "param", "code"}
    assert value["error"]["type"] == "invalid_request_error"
    assert words in value["error"]["message"] and len(value["error"]["message"]) <= 1000
    assert server.process.poll() is None


def test_the_place_of_what_was_wrong_is_named(server):
    client = server.client()
    error = refusal(client, ask("What?", image_part("data:image/png;base64,@")), model=server.model)[1]
    assert (error["param"], error["code"]) == ("messages[0].content[1].image_url.url", "invalid_image")
    error = refusal(client, ask({"type": "image_url", "image_url": {"url": 5}}), model=server.model)[1]
    assert error["param"] == "messages[0].content[0].image_url.url"
    error = refusal(client, ask("What?", {"type": "input_image"}), model=server.model)[1]
    assert (error["param"], error["code"]) == ("messages[0].content[1].type", "invalid_value")
    error = refusal(client, HELLO, model=server.model, n=3)[1]
    assert (error["param"], error["code"]) == ("n", "unsupported_parameter")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/redoc", 404),
        ("POST", "/docs", 405),
        ("POST", "/v1/completions", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/../../etc/passwd", 404),
        ("GET", PATH, 405),
        ("DELETE", PATH, 405),
        ("OPTIONS", PATH, 405),
        ("GET", "/v1/models/other", 404),
    ],
)
def test_paths_that_are_not_there(server, method, path, status):
    found, value, _ = server.send(b"", method=method, path=path)
    assert found == status and value["error"]["message"]


def test_another_kind_of_body(server):
    status, value, _ = server.send(as_body(server, HELLO), headers={"Content-Type": "text/plain"})
    assert status == 415 and "application/json" in value["error"]["message"]


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"POST / HTTP/9\r\n\r\n", b"\x00" * 99]
)
def test_what_is_no_http(server, data):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(data + b"\r\n\r\n")
        connection.settimeout(10)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert server.client().models.list().data


def test_a_key(limited, client):
    for key in ("other", "", "sécret"):
        status, value, _ = limited.send(as_body(limited, HELLO), headers={"Authorization": f"Bearer {key}"})
        assert status == 401 and value["error"]["code"] == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        limited.client(api_key="other").models.list()
    for path in ("/metrics", "/v1/models", "/v1/models/org/tiny"):
        assert limited.send(b"", method="GET", path=path)[0] == 401
    for path in ("/health", "/docs", "/openapi.json"):
        status, value, _ = limited.send(b"", method="GET", path=path)
        assert status == 200 and "tiny" not in str(value) and "secret" not in str(value)
    assert client.models.retrieve("org/tiny").id == "org/tiny"
    assert client.chat.completions.create(model="org/tiny", **HELLO).usage.completion_tokens == 4


def test_limits_of_images(client):
    assert "3 images" in refusal(client, ask(*[picture(56, 56)] * 3))[1]["message"]
    status, error = refusal(client, ask(picture(200, 101)))
    assert status == 400 and "20200 pixels" in error["message"]


def test_limits_of_tokens(client):
    status, error = refusal(client, ask(picture(90, 200), picture(100, 100), "What is this?"))
    assert (status, error["code"]) == (400, "context_length_exceeded") and "takes 90" in error["message"]
    status, error = refusal(client, HELLO, max_tokens=701)
    assert (status, error["param"]) == (400, "max_tokens") and "700 at most" in error["message"]


def test_bodies_that_are_too_long(limited):
    headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
    body = as_body(limited, ask("x" * 200_000))
    status, value, _ = limited.send(body, headers=headers)
    assert status == 413 and "200000 bytes" in value["error"]["message"]

    connection = http.client.HTTPConnection("127.0.0.1", limited.port, timeout=30)
    connection.request("POST", PATH, (b"x" * 10_000 for _ in range(30)), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_that_comes_too_slowly(limited):
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", limited.port)) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode())
        start = time.monotonic()
        connection.settimeout(10)
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        assert 0.8 < time.monotonic() - start < 5


def test_more_requests_than_the_limit_come_back_later(limited, client):
    with ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(client.chat.completions.create, model="org/tiny", **HELLO | {"max_tokens": 700})
            for _ in range(2)
        ]
        end = time.monotonic() + 10
        while "in_hand 2.0" not in limited.send(b"", method="GET", path="/metrics", headers=KEY)[1]:
            assert time.monotonic() < end
        status, value, headers = limited.send(as_body(limited, HELLO), headers=KEY)
        assert (status, value["error"]["type"], headers["retry-after"]) == (429, "rate_limit_error", "1")
        patient = limited.client(api_key="secret", max_retries=9)
        assert patient.chat.completions.create(model="org/tiny", **HELLO).usage.completion_tokens == 4
        assert [answer.result().usage.completion_tokens for answer in running] == [700, 700]


KEY = {"Authorization": "Bearer secret"}


@pytest.fixture
def slow_pictures():
    """A web server that is too slow, or has too much to send."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(200):
                    self.wfile.write(b"x" * (100_000 if self.path == "/endless" else 1))
                    time.sleep(0.001 if self.path == "/endless" else 0.05)
            except OSError:
                pass

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_limits_of_downloads(client, slow_pictures):
    error = refusal(client, ask(image_part(f"{slow_pictures}/endless")))[1]
    assert "larger than the 5000 bytes left for it" in error["message"]
    start = time.monotonic()
    status, error = refusal(client, ask(image_part(f"{slow_pictures}/slow")))
    assert status == 400 and "within 1 seconds" in error["message"]
    assert time.monotonic() - start < 4


def test_an_image_at_the_limit(client):
    assert client.chat.completions.create(model="org/tiny", **ask(picture(100, 200), max_tokens=1)).usage
    assert len(encode(picture(100, 200))) < 200_000
