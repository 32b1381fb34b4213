# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The server: concurrent clients answered in batches against one by one, and how it takes abuse.

    PYTHONPATH=. python benchmarks/serve.py [--model DIR] [--clients 8] [--requests 32] [--repeats 3] [--json FILE]
    PYTHONPATH=. python benchmarks/serve.py --stress 300 [--clients 50]    # a third is broken or hostile

Two servers run, one that answers up to as many requests together as there are clients, and one that answers one at a
time. The same clients send both the same requests, in turns. Without a model, one with random weights is made.
"""

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import side_by_side
import typer
from serve_clients import ServerProcess, ask, picture
from serve_stress import Stress


ROOT = Path(__file__).parents[1]
WARM_UP = 2  # tenths of the time that memory may take to reach its height
MEMORY_BOUND = 64 << 20  # bytes by which a server may grow after its warm-up


def make_model(folder: Path, width: int) -> Path:
    """A model with random weights, the one that the tests use, with hidden states of this width."""
    from tests.support.finetune_data import write_checkpoint

    return write_checkpoint(folder / "tiny", width=width)


def make_requests(count: int, new_tokens: int) -> list[dict[str, Any]]:
    """Requests that differ in their images, one in four without, and in the length of their texts."""
    sizes = [(112, 112), (56, 112), (168, 112), (90, 130)]
    return [
        ask(
            *([picture(*sizes[number % 4], seed=number)] if number % 4 else []),
            f"Describe number {number}. " * (1 + number % 3),
            max_tokens=new_tokens,
        )
        for number in range(count)
    ]


class Load:
    """Clients of a server, and how long each request took.

    Args:
        server: that answers.
        requests: sent each time.
        clients: that send them, each the next one when it has its answer.
    """

    def __init__(self, server: ServerProcess, requests: list[dict[str, Any]], clients: int):
        self.server = server
        self.requests = requests
        self.clients = clients
        self.client = server.client()
        self.latencies: list[float] = []
        self.answers: list[str] = []
        self.tokens = 0

    def send(self, request: dict[str, Any]) -> tuple[str, int]:
        start = time.perf_counter()
        completion = self.client.chat.completions.create(model=self.server.model, **request)
        self.latencies.append(time.perf_counter() - start)
        return completion.choices[0].message.content, completion.usage.completion_tokens

    def __call__(self) -> None:
        with ThreadPoolExecutor(self.clients) as pool:
            answers = list(pool.map(self.send, self.requests))
        self.answers = [text for text, _ in answers]
        self.tokens = sum(tokens for _, tokens in answers)

    def row(self, name: str, seconds: list[float]) -> dict[str, Any]:
        """A line of the table; the first run was no repeat."""
        latencies = self.latencies[len(self.requests) :]
        percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
        mean_batch = self.server.metric("batch_size_sum") / self.server.metric("batch_size_count")
        return {
            "server": name,
            "requests a second": side_by_side.spread([len(self.requests) / value for value in seconds]),
            "tokens a second": side_by_side.spread([self.tokens / value for value in seconds]),
            "latency, s: median": percentiles[49],
            "95 %": percentiles[94],
            "99 %": percentiles[98],
            "mean batch": mean_batch,
        }


def compare(model: Path, clients: int, requests: int, new_tokens: int, repeats: int) -> dict[str, Any]:
    """Times both servers.

    Returns:
        `rows`, one a server; `speedup`, the spread of the batched server's requests a second over the other's; and
        `same_answers`, how many of the requests got the same answer of both.
    """
    sent = make_requests(requests, new_tokens)
    with (
        ServerProcess(model, "--max-batch", clients) as batching,
        ServerProcess(model, "--max-batch", 1) as single,
    ):
        sides = {"in batches": Load(batching, sent, clients), "one by one": Load(single, sent, clients)}
        seconds = side_by_side.alternate(sides, repeats)
        return {
            "rows": [load.row(name, seconds[name]) for name, load in sides.items()],
            "speedup": side_by_side.ratios(seconds["one by one"], seconds["in batches"]),
            "same_answers": sum(a == b for a, b in zip(*(load.answers for load in sides.values()))),
        }


def stress(model: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Puts a server under stress.

    Returns:
        `counts` by kind, `problems`, percentiles of the good requests' `latency` in seconds, resident memory by
        tenth of the time, and its `growth` after the warm-up, in bytes.
    """
    with ServerProcess(model, "--max-requests", max(2, clients * 4 // 5)) as server:
        report = Stress(server, clients, seconds).run()
    memory, problems = report.memory_by_tenth(seconds), report.problems
    growth = memory[-1] - memory[WARM_UP]
    if growth > MEMORY_BOUND:
        problems = [*problems, f"The server grew by {growth} bytes, more than {MEMORY_BOUND}."]
    percentiles = statistics.quantiles(report.latencies, n=100, method="inclusive")
    return {
        "seconds": seconds,
        "clients": clients,
        "counts": dict(report.counts),
        "latency": {"median": percentiles[49], "95 %": percentiles[94], "99 %": percentiles[98]},
        "memory, MB": [size >> 20 for size in memory],
        "growth": growth,
        "problems": problems,
    }


def main(
    model: Annotated[Path | None, typer.Option(help="Folder of a checkpoint; without one, random weights.")] = None,
    width: Annotated[int, typer.Option(help="Hidden size of the random model.")] = 256,
    clients: Annotated[int | None, typer.Option(help="At a time; 8, or 50 under stress.")] = None,
    requests: Annotated[int, typer.Option(help="Of all clients, in a repeat.")] = 32,
    new_tokens: Annotated[int, typer.Option(help="Of an answer, at most.")] = 64,
    repeats: Annotated[int, typer.Option(help="Timed runs of each side.")] = 3,
    stress_seconds: Annotated[float, typer.Option("--stress", help="Stress the server for so many seconds.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there too.")] = None,
) -> None:
    """Compare batches with one by one, or put the server under stress."""
    with tempfile.TemporaryDirectory() as folder:
        model = model or make_model(Path(folder), width)
        if stress_seconds:
            figures = stress(model, clients or 50, stress_seconds)
            for name, value in figures.items():
                typer.echo(f"{name}: {value}")
        else:
            figures = compare(model, clients or 8, requests, new_tokens, repeats)
            side_by_side.print_table(figures["rows"], f"{clients or 8} clients, {requests} requests")
            typer.echo(f"in batches over one by one: {side_by_side.as_text(figures['speedup'])}")
            typer.echo(f"the same answers: {figures['same_answers']} of {requests}")
    if json_file is not None:
        side_by_side.write_json(json_file, {**figures, **side_by_side.describe_machine()})
    if figures.get("problems"):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
