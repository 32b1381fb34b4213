# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Many clients at a time, a third of them broken or hostile: every good answer is compared, and memory is watched."""

import random
import socket
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import openai
from serve_clients import PATH, ServerProcess, as_body, ask, bad_requests, good_requests


PATIENCE = 60  # seconds that a good client tries again for, when it is told to come later


@dataclass
class Report:
    """What happened.

    Args:
        counts: answers and refusals by kind.
        problems: what must not happen, in words.
        latencies: of good requests, in seconds, refusals for the moment included.
        memory: resident bytes of the server, with the seconds since the start.
    """

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)

    def memory_by_tenth(self, seconds: float) -> list[int]:
        """Bytes in each tenth of the time, the median."""
        tenths: list[list[int]] = [[] for _ in range(10)]
        for when, size in self.memory:
            tenths[min(9, int(10 * when / seconds))].append(size)
        return [int(statistics.median(tenth)) for tenth in tenths]


class Stress:
    """The clients.

    Args:
        server: under stress.
        clients: how many there are.
        seconds: for so long.
    """

    def __init__(self, server: ServerProcess, clients: int, seconds: float):
        self.server = server
        self.clients = clients
        self.seconds = seconds
        self.report = Report()
        self.bad = list(bad_requests())
        self.good = [(request, self.alone(request)) for request in good_requests()]

    def alone(self, request: dict[str, Any]) -> tuple[str, str, int]:
        """Text, finish reason and tokens of the answer while there is no other request."""
        return read_whole(self.server.client().chat.completions.create(model=self.server.model, **request))

    def run(self) -> Report:
        """Lets all clients loose, and waits until they are done."""
        start = time.monotonic()
        end = start + self.seconds
        threads = [
            threading.Thread(target=self.hostile if number % 3 == 0 else self.friendly, args=(number, end))
            for number in range(self.clients)
        ]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            self.report.memory.append((time.monotonic() - start, self.server.memory()))
            time.sleep(0.5)
        for thread in threads:
            thread.join()
        self.look_afterwards()
        return self.report

    def friendly(self, seed: int, end: float) -> None:
        """A client that asks what must be answered."""
        source, client = random.Random(seed), self.server.client(max_retries=0)
        while time.monotonic() < end:
            request, expected = source.choice(self.good)
            start, stream = time.monotonic(), source.random() < 0.5
            answer = self.ask_patiently(client, request, stream)
            self.report.latencies.append(time.monotonic() - start)
            self.report.counts["good answers"] += answer == expected
            if answer != expected:
                self.report.problems.append(f"{request} was answered by {answer}, alone by {expected}")

    def ask_patiently(self, client: openai.OpenAI, request: dict[str, Any], stream: bool) -> Any:
        """The answer, or the error; told to come later, it does."""
        create, end = client.chat.completions.create, time.monotonic() + PATIENCE
        while True:
            try:
                if stream:
                    usage = {"include_usage": True}
                    return read_stream(create(model=self.server.model, stream=True, stream_options=usage, **request))
                return read_whole(create(model=self.server.model, **request))
            except openai.RateLimitError as error:
                self.report.counts["told to come later"] += 1
                if time.monotonic() > end:
                    return error
                time.sleep(0.1)
            except openai.OpenAIError as error:
                return error

    def hostile(self, seed: int, end: float) -> None:
        """A client that sends what must be refused, or goes away in the middle."""
        source = random.Random(seed)
        acts = [self.send_bad] * 6 + [self.leave_a_stream, self.leave_a_body, self.send_noise]
        while time.monotonic() < end:
            act = source.choice(acts)
            try:
                act(source)
            except OSError as error:
                self.report.problems.append(f"{act.__name__}: {error!r}")

    def send_bad(self, source: random.Random) -> None:
        name, request, status, _ = source.choice(self.bad)
        found, value, _ = self.server.send(as_body(self.server, request))
        self.report.counts["refused"] += 1
        if found not in (status, 429) or "message" not in value["error"]:
            self.report.problems.append(f"{name} was answered by {found}: {value}")

    def leave_a_stream(self, source: random.Random) -> None:
        body = as_body(self.server, ask("Tell me a long story.", max_tokens=400, stream=True))
        with self._connect(f"Content-Length: {len(body)}\r\n\r\n".encode() + body) as connection:
            connection.recv(source.choice([1, 300, 3000]))
        self.report.counts["left in a stream"] += 1

    def leave_a_body(self, source: random.Random) -> None:
        with self._connect(b"Content-Length: 5000\r\n\r\n" + b"{" * source.randrange(4999)):
            time.sleep(source.random() / 2)
        self.report.counts["left in a body"] += 1

    def send_noise(self, source: random.Random) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=60) as connection:
            connection.sendall(source.randbytes(source.choice([1, 100, 10_000])))
        self.report.counts["noise"] += 1

    def _connect(self, rest: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.server.port), timeout=60)
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n".encode() + rest)
        return connection

    def look_afterwards(self) -> None:
        """The server is there, has nothing in hand, and answers as before."""
        time.sleep(3)
        for name in ("in_hand", "waiting", "running"):
            if self.server.metric(name) != 0:
                self.report.problems.append(f"{name} is {self.server.metric(name)} at the end")
        for request, expected in self.good:
            if self.alone(request) != expected:
                self.report.problems.append(f"{request} is answered otherwise at the end")
        log = self.server.log.read_text()
        if self.server.process.poll() is not None or "Traceback" in log:
            self.report.problems.append(f"The server failed: {log[-3000:]}")


def read_whole(completion: Any) -> tuple[str, str, int]:
    """Text, finish reason and tokens of an answer."""
    choice = completion.choices[0]
    return choice.message.content, choice.finish_reason, completion.usage.completion_tokens


def read_stream(chunks: Any) -> tuple[str, str | None, int]:
    """The same of a stream with its usage at the end."""
    text, finish, tokens = "", None, 0
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = finish or choice.finish_reason
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    return text, finish, tokens
