# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The embedded server against vLLM, which serves the same checkpoint to the same clients, in turns.

PYTHONPATH=. python benchmarks/serve_engines.py --vllm .venv/vllm/bin/python [--model DIR] [--clients 8]
"""

import os
import socket
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import psutil
import serve
import side_by_side
import torch
import typer
from serve_clients import START_SECONDS, ServerProcess
from transformers import AutoModelForImageTextToText, AutoProcessor

import llava_uhd_v2_hf  # noqa: F401  registers the model


NANO = Path(__file__).parents[1] / "examples/nano/checkpoint"


class VllmProcess(ServerProcess):
    """`llava-uhd-v2 serve --engine vllm` on loopback, in the checkpoint's own dtype, as the embedded server.

    Args:
        python: of an environment with vLLM and this package.
        model: folder of a checkpoint.
        flags: of vLLM.
    """

    def __init__(self, python: Path, model: Path, *flags: object):
        self.log = Path(tempfile.mkstemp(prefix="vllm-", suffix=".log")[1])
        self.model = model.resolve().name
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        start = [python, "-c", "from llava_uhd_v2_hf.cli.app import app; app()", "serve", "--engine", "vllm"]
        start += ["--port", self.port, "--name", self.model, "--model", model, "--", *flags]
        left_out = ("PYTHONPATH",)
        settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        environment = {name: value for name, value in os.environ.items() if name not in left_out} | settings
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([*map(str, start)], stdout=log, stderr=log, env=environment)
        end = time.monotonic() + START_SECONDS
        while self._health(self.port) != 200:
            if time.monotonic() > end or self.process.poll() is not None:
                self.stop()
                raise RuntimeError(f"vLLM didn't start: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)


def copy_nano(folder: Path) -> Path:
    """Returns a copy of nano in float32, in which the order of sums chooses no token."""
    model = AutoModelForImageTextToText.from_pretrained(NANO, dtype=torch.float32)
    model.save_pretrained(folder / "nano")
    AutoProcessor.from_pretrained(NANO).save_pretrained(folder / "nano")
    return folder / "nano"


def processes(server: ServerProcess) -> list[psutil.Process]:
    """Of a server, its children among them."""
    process = psutil.Process(server.process.pid)
    return [process, *process.children(recursive=True)]


def cpu_seconds(server: ServerProcess) -> float:
    """User and system time that a server has used."""
    return sum(sum(process.cpu_times()[:2]) for process in processes(server))


def memory(server: ServerProcess) -> int:
    """Bytes that a server alone holds."""
    return sum(process.memory_full_info().uss for process in processes(server))


class TimedLoad(serve.Load):
    """Clients of a server, and the CPU time that it used."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.cpu: list[float] = []

    def __call__(self) -> None:
        before = cpu_seconds(self.server)
        super().__call__()
        self.cpu.append(cpu_seconds(self.server) - before)

    def row(self, name: str, seconds: list[float]) -> dict[str, Any]:
        """A line of the table; the first run was no repeat."""
        latencies = self.latencies[len(self.requests) :]
        percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
        return {
            "server": name,
            "requests a second": side_by_side.spread([len(self.requests) / value for value in seconds]),
            "CPU seconds": side_by_side.spread(self.cpu[1:]),
            "latency, s: median": percentiles[49],
            "95 %": percentiles[94],
            "memory, MB": memory(self.server) >> 20,
        }


def main(
    vllm: Annotated[Path, typer.Option(help="Python of an environment with vLLM and this package.")],
    model: Annotated[Path | None, typer.Option(help="Folder of a checkpoint; without one, nano in float32.")] = None,
    clients: Annotated[int, typer.Option(help="At a time.")] = 8,
    requests: Annotated[int, typer.Option(help="Of all clients, in a repeat.")] = 32,
    new_tokens: Annotated[int, typer.Option(help="Of an answer, at most.")] = 64,
    repeats: Annotated[int, typer.Option(help="Timed runs of each side.")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there too.")] = None,
) -> None:
    """Compare the two servers."""
    sent = [request | {"temperature": 0} for request in serve.make_requests(requests, new_tokens)]
    flags = ("--max-num-seqs", clients, "--enforce-eager")
    with ExitStack() as stack:
        model = model or copy_nano(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        own = stack.enter_context(ServerProcess(model, "--max-batch", clients))
        other = stack.enter_context(VllmProcess(vllm, model, *flags))
        sides = {"embedded": TimedLoad(own, sent, clients), "vllm": TimedLoad(other, sent, clients)}
        seconds = side_by_side.alternate(sides, repeats)
        rows = [load.row(name, seconds[name]) for name, load in sides.items()]
    ratio = side_by_side.ratios(seconds["embedded"], seconds["vllm"])
    same = sum(a == b for a, b in zip(*(load.answers for load in sides.values())))
    side_by_side.print_table(rows, f"{clients} clients, {requests} requests")
    typer.echo(f"vLLM's requests a second over the embedded server's: {side_by_side.as_text(ratio)}")
    typer.echo(f"the same answers: {same} of {requests}")
    if json_file is not None:
        figures = {"rows": rows, "vllm_over_embedded": ratio, "same_answers": same}
        side_by_side.write_json(json_file, {**figures, **side_by_side.describe_machine()})


if __name__ == "__main__":
    typer.run(main)
