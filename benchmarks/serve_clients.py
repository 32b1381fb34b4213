# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A server in a process of its own, requests that it must answer, and such that it must refuse."""

import base64
import functools
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from openai import OpenAI
from PIL import Image


PATH = "/v1/chat/completions"
START_SECONDS = 120


class ServerProcess:
    """`llava-uhd-v2 serve` on a free port of loopback; a context manager that stops it.

    Args:
        model: folder of a checkpoint.
        flags: of the command.
        prelude: Python that runs first.
    """

    def __init__(self, model: Path, *flags: object, prelude: str = "pass"):
        self.log = Path(tempfile.mkstemp(prefix="serve-", suffix=".log")[1])
        start = [
            sys.executable,
            "-c",
            f"{prelude}\nfrom llava_uhd_v2_hf.cli.app import app; app()",
            "serve",
            "--port",
            "0",
        ]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*start, "--model", str(model), *map(str, flags)],
                stdout=log,
                stderr=log,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )
        self.model = model.resolve().name
        self.port = self._wait_for_port()

    def _wait_for_port(self) -> int:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if found := re.search(r"Serving .* on http://127\.0\.0\.1:(\d+)/", self.log.read_text()):
                port = int(found[1])
                while self._health(port) != 200:
                    time.sleep(0.05)
                return port
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"The server didn't start: {self.log.read_text()[-2000:]}")

    def _health(self, port: int) -> int | None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/health")
            return connection.getresponse().status
        except OSError:
            return None

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self.log.unlink()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, and waits for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(120)

    def client(self, **options: Any) -> OpenAI:
        """OpenAI's own client; it doesn't try again by itself."""
        url = f"http://127.0.0.1:{self.port}/v1"
        return OpenAI(**{"base_url": url, "api_key": "none", "max_retries": 0, "timeout": 120, **options})

    def send(
        self, body: bytes, *, method: str = "POST", path: str = PATH, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON or text, and headers (names in lower case) of the answer to a request of any bytes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(
                method, path, body, {"Content-Type": "application/json"} if headers is None else headers
            )
            response = connection.getresponse()
            text = response.read()
            names = {name.lower(): value for name, value in response.getheaders()}
            value = json.loads(text) if names.get("content-type") == "application/json" else text.decode()
            return response.status, value, names
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """The present value of a metric, as `waiting` or `batch_size_sum`."""
        text = self.send(b"", method="GET", path="/metrics")[1]
        return float(re.search(rf"^llava_uhd_v2_{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])

    def memory(self) -> int:
        """Resident bytes of the process."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Noise, upscaled so that it compresses like a photograph."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    """The image as a file."""
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    """A file as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_part(url: str, **more: Any) -> dict[str, Any]:
    """An image of a message."""
    return {"type": "image_url", "image_url": {"url": url, **more}}


def ask(*parts: Any, **more: Any) -> dict[str, Any]:
    """The arguments of a request with one message; strings are its texts, images of PIL its images."""
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else image_part(data_url(encode(part)))
        if isinstance(part, Image.Image)
        else part
        for part in parts
    ]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 12, **more}


def good_requests() -> list[dict[str, Any]]:
    """Requests with images of many shapes and without, of one turn and of several, long and short, greedy."""
    turns = [
        {"role": "system", "content": "Be short."},
        *ask("What is this?", picture(56, 112, 1))["messages"],
        {"role": "assistant", "content": "a picture"},
        {"role": "user", "content": "Where is red?"},
    ]
    return [
        ask("Hello there.", max_tokens=24),
        ask("What colour is top left?", picture(112, 112, 2), max_tokens=16),
        ask(picture(56, 56, 3), "What is this?", max_tokens=5),
        ask("Compare: ", picture(90, 200, 4), " and ", picture(200, 90, 5), "."),
        ask(image_part(data_url(encode(picture(150, 150, 6), "JPEG"), "image/jpeg")), "Describe.", max_tokens=20),
        ask(image_part(data_url(encode(picture(168, 112, 7), "WEBP"), "image/webp"), detail="low"), "Describe."),
        ask(image_part(data_url(encode(picture(112, 168, 8))), detail="original"), "Describe."),
        ask(image_part(data_url(encode(picture(112, 168, 9))), detail=None), "Describe."),
        {"messages": turns, "max_tokens": 9},
        ask("Where is red?", picture(120, 60, 8), stop=["a", "\n"], max_tokens=30),
        ask("Tell me a long story.", max_tokens=40),
    ]


@functools.cache
def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG of one colour with one of its scans repeated: each costs as much time as the whole image."""
    file = BytesIO()
    Image.new("L", (side, side), 90).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - data.count(b"\xff\xda") + 1) + data[-2:]


@functools.cache
def bomb(side: int) -> bytes:
    """A small PNG of very many pixels."""
    return encode(Image.new("1", (side, side)))


def bad_requests() -> Iterator[tuple[str, bytes | dict[str, Any], int, str]]:
    """What must be refused: a name, the body or the arguments of a request, the status, and words of the message."""
    yield from _bad_json()
    yield from _bad_fields()
    yield from _bad_images()


def _bad_json() -> Iterator[tuple[str, bytes | dict[str, Any], int, str]]:
    yield "empty body", b"", 400, "Invalid JSON"
    yield "cut-off JSON", b'{"model": "m", "messages": [', 400, "Invalid JSON"
    yield "no object", b"[1, 2]", 400, "object"
    yield "null", b"null", 400, "object"
    yield "deep arrays", b"[" * 40_000, 400, "Invalid JSON"
    yield "deep objects", b'{"messages":' * 40_000 + b"1" + b"}" * 40_000, 400, "Invalid JSON"
    yield "millions of values", b'{"messages": [' + b"{}," * 5_000_000 + b"1]}", 400, "50000 commas and brackets"
    yield "thousands of errors", b'{"model": "m", "messages": [' + b"{}," * 20_000 + b"1]}", 400, "messages[0]"
    yield "thousands of keys", b"{" + b",".join(b'"%d": 1' % key for key in range(40_000)) + b"}", 400, "model"
    yield "invalid UTF-8", b'{"model": "\xff\xfe"}', 400, "Invalid JSON"
    yield "half a surrogate", b'{"model": "\\ud800"}', 400, "Invalid JSON"
    yield "NUL byte in JSON", b'{"model": "a\x00b"}', 400, "Invalid JSON"
    yield "form data", b"model=m&messages=x", 400, "Invalid JSON"
    yield "huge exponent", b'{"temperature": 1e999999, "model": "m", "messages": []}', 400, "messages"


def _bad_fields() -> Iterator[tuple[str, bytes | dict[str, Any], int, str]]:
    hello = ask("Hello")
    yield "no messages", {"messages": []}, 400, "`messages`"
    yield "messages missing", {"max_tokens": 1}, 400, "`messages`"
    yield "messages no list", {"messages": "Hello"}, 400, "`messages`"
    yield "message no object", {"messages": [1]}, 400, "`messages[0]`"
    yield "other model", {**hello, "model": "gpt-4o"}, 404, "gpt-4o"
    yield "model no string", {**hello, "model": 7}, 400, "`model`"
    for value in (-1, 0, 2**70, 1.5, "7", True, 100_000):
        yield f"max_tokens {value!r}", {**hello, "max_tokens": value}, 400, "`max_tokens`"
    yield "two limits", {**hello, "max_completion_tokens": 5}, 400, "max_completion_tokens"
    for value in (-0.1, 2.1, float("nan"), float("inf"), "hot"):
        yield f"temperature {value!r}", {**hello, "temperature": value}, 400, "`temperature`"
    yield "top_p 1.1", {**hello, "top_p": 1.1}, 400, "`top_p`"
    yield "seed 2**63", {**hello, "seed": 2**63}, 400, "`seed`"
    yield "seed of 5000 digits", b'{"seed": ' + b"9" * 5000 + b', "model": "m", "messages": []}', 400, "Invalid JSON"
    yield "stop empty", {**hello, "stop": ""}, 400, "`stop[0]`"
    yield "stop of five", {**hello, "stop": list("abcde")}, 400, "`stop`"
    yield "stop a number", {**hello, "stop": 3}, 400, "`stop`"
    yield "NUL in stop", {**hello, "stop": "a\0"}, 400, "NUL"
    yield "NUL in text", ask("a\0b"), 400, "NUL"
    yield "stream a string", {**hello, "stream": "yes"}, 400, "`stream`"
    yield "stream options alone", {**hello, "stream_options": {"include_usage": True}}, 400, "`stream_options`"
    for role in ("tool", "function", "root", None, 5):
        yield f"role {role}", {"messages": [{"role": role, "content": "x"}]}, 400, "`messages[0].role`"
    yield "content null", {"messages": [{"role": "user", "content": None}]}, 400, "`messages[0].content`"
    yield "content empty", {"messages": [{"role": "user", "content": []}]}, 400, "`messages[0].content`"
    yield "part without a type", ask({"text": "Hello"}), 400, "`messages[0].content[0].type` is missing"
    yield "n true", {**hello, "n": True}, 400, "`n`"
    yield "part of no kind", ask({"type": "video_url", "video_url": {"url": "x"}}), 400, "messages[0].content[0]"
    yield "late system message", {"messages": [*hello["messages"], {"role": "system", "content": "x"}]}, 400, "system"
    yield "named message", {"messages": [{**hello["messages"][0], "name": "Ann"}]}, 400, "`messages[0].name`"
    yield "the mark of an image", ask("What is <image>?"), 400, "`<image>`"
    yield "too long a prompt", ask("word " * 5000), 400, "tokens"
    yield "megabytes of text", ask("word " * 4_000_000), 400, "20000000 characters"
    for name, value in UNSUPPORTED.items():
        yield f"unsupported {name}", {**hello, name: value}, 400, f"`{name}`"


UNSUPPORTED = {
    "n": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "frequency_penalty": 0.5,
    "presence_penalty": -1,
    "logit_bias": {"5": 100},
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy"},
    "prediction": {"type": "content", "content": "x"},
    "reasoning_effort": "low",
    "verbosity": "low",
    "web_search_options": {},
    "repetition_penalty": 1.3,
    "temprature": 1,
}


def _bad_images() -> Iterator[tuple[str, bytes | dict[str, Any], int, str]]:
    png = encode(picture(112, 112))
    assistant = {"role": "assistant", "content": [image_part(data_url(png))]}
    yield "image of the assistant", {"messages": [assistant]}, 400, "assistant"
    yield "nine images", ask(*[picture(56, 56)] * 9), 400, "9 images"
    yield "detail odd", ask(image_part(data_url(png), detail="huge")), 400, "image_url.detail"
    yield "URL no string", ask(image_part(None)), 400, "image_url.url"
    files = {
        "truncated PNG": (png[: len(png) // 2], "cut off or damaged"),
        "truncated JPEG": (encode(picture(112, 112), "JPEG")[:400], "cut off or damaged"),
        "GIF": (encode(picture(56, 56), "GIF"), "PNG or JPEG"),
        "TIFF": (encode(picture(56, 56), "TIFF"), "PNG or JPEG"),
        "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "PNG or JPEG"),
        "HTML": (b"<!doctype html><html><body>404</body></html>", "PNG or JPEG"),
        "noise": (bytes(range(256)) * 40, "PNG or JPEG"),
        "NUL bytes": (bytes(1000), "PNG or JPEG"),
        "no bytes": (b"", "empty"),
        "JPEG of 1,000 scans": (jpeg_of_scans(4000, 1000), "more than 100 scans"),
        "PNG of 64 million pixels": (bomb(8000), "64000000 pixels"),
        "PNG of 900 million pixels": (bomb(30000), "PIL refuses it"),
        "PNG with a broken middle": (png[:60] + b"\xff" * 30 + png[90:], "cannot be used"),
    }
    for name, (data, words) in files.items():
        yield name, ask(image_part(data_url(data))), 400, words
    yield "broken base64", ask(image_part("data:image/png;base64,@@@@")), 400, "base64"
    yield "base64 without padding", ask(image_part("data:image/png;base64,abcde")), 400, "base64"
    yield "data URL of text", ask(image_part("data:text/html;base64,PGI+")), 400, "data:image/png"
    yield "data URL without base64", ask(image_part("data:image/svg+xml,<svg/>")), 400, "data:image/png"
    for url in BAD_URLS:
        yield f"URL {url!r}"[:60], ask(image_part(url)), 400, "The image cannot be used"


BAD_URLS = [
    "file:///etc/passwd",
    "/etc/passwd",
    "etc/passwd",
    "ftp://example.com/a.png",
    "gopher://127.0.0.1:25/",
    "http://",
    "http:///a.png",
    "https://exa mple.com/",
    "http://ex\u00e4mple.com/a.png",
    "http://[::1/a.png",
    "http://127.0.0.1:99999/",
    "http://user:word@127.0.0.1/",
    "http://a\r\nb/",
    "javascript:alert(1)",
    "x" * 5000,
]


def as_body(server: ServerProcess, request: bytes | dict[str, Any]) -> bytes:
    """The bytes of a request; its model is the server's, if it names none."""
    if isinstance(request, bytes):
        return request
    return json.dumps({"model": server.model, **request}).encode()
