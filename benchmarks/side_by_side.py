# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What the benchmarks share: two sides timed alternately in one process, their ratio, tables and JSON files.

A ratio is taken repeat by repeat: what slows the machine for a while slows both sides of the same repeat.
"""

import json
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from rich.console import Console
from rich.table import Table


def alternate(sides: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Runs the sides in turn, `repeats` times each, and every second time in the opposite order.

    Every side runs once before, untimed: libraries start their threads and kernels, and memory is allocated.

    Args:
        sides: what to time, by name.
        repeats: timed runs of each side.

    Returns:
        Seconds of every run, by name; work on a GPU is waited for.

    Raises:
        ValueError: if `repeats` is less than 1.
    """
    if repeats < 1:
        raise ValueError(f"`repeats` must be at least 1, got {repeats}.")
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in list(sides)[:: -1 if repeat % 2 else 1]:
            seconds[name].append(time_once(sides[name]))
    return seconds


def time_once(run: Callable[[], None]) -> float:
    """Seconds of one run, up to the last of its kernels."""
    wait_for_device()
    start = time.perf_counter()
    run()
    wait_for_device()
    return time.perf_counter() - start


class Stopwatch:
    """Sums the time of functions by label; what they spend in each other counts for the inner one alone."""

    def __init__(self):
        self.seconds: Counter[str] = Counter()
        self._labels: list[str] = []
        self._since = 0.0

    @contextmanager
    def watch(self, places: Mapping[str, Sequence[tuple[Any, str]]]) -> Iterator[None]:
        """Times functions while the context lasts.

        Args:
            places: for each label, the functions as owner (an object, a class, a module) and name.
        """
        with ExitStack() as stack:
            for label, functions in places.items():
                for owner, name in functions:
                    stack.enter_context(patch.object(owner, name, self._timed(label, getattr(owner, name))))
            yield

    def _timed(self, label: str, function: Callable) -> Callable:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._book()
            self._labels.append(label)
            try:
                return function(*args, **kwargs)
            finally:
                self._book()
                self._labels.pop()

        return timed

    def _book(self) -> None:
        """Books the time since the last call under the label that runs."""
        wait_for_device()
        now = time.perf_counter()
        if self._labels:
            self.seconds[self._labels[-1]] += now - self._since
        self._since = now


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum of `numerator / denominator`, repeat by repeat.

    Raises:
        ValueError: if the two have different numbers of repeats.
    """
    if len(numerator) != len(denominator):
        raise ValueError(f"{len(numerator)} and {len(denominator)} repeats can't be compared; time both as often.")
    return spread([over / under for over, under in zip(numerator, denominator)])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"minimum": min(values), "median": statistics.median(values), "maximum": max(values)}


def print_table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> None:
    """Prints a table.

    Args:
        rows: its lines; the keys of the first are the columns. Floats get three digits, a spread its median first.
        title: what stands above it.
    """
    table = Table(title=title, title_justify="left")
    for column, value in rows[0].items():
        table.add_column(column, justify="left" if isinstance(value, (str, Mapping)) else "right")
    for row in rows:
        table.add_row(*(as_text(value) for value in row.values()))
    # a table in a file is as wide as it needs
    console = Console()
    Console(width=console.width if console.is_terminal else 160).print(table)


def as_text(value: Any) -> str:
    """A cell of a table; what [`spread`] returns becomes "median (minimum to maximum)"."""
    if isinstance(value, Mapping):
        return f"{as_text(value['median'])} ({as_text(value['minimum'])} to {as_text(value['maximum'])})"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def describe_machine() -> dict[str, Any]:
    """Where the figures come from: device, threads, versions."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write_json(path: Path, data: Any) -> None:
    """Writes the file under a temporary name and renames it, so that it is there whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(data, indent=2) + "\n")
    temporary.replace(path)
