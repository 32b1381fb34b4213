# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Counts that the workers of a data loader add to and the training reads."""

from collections.abc import Sequence

import torch
from torch.utils.data import get_worker_info


_MOST_WORKERS = 256


class WorkerCounts:
    """Named counts in memory that a process shares with its data loader's workers, each of which has a row.

    Args:
        names: of the counts.
    """

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.rows = torch.zeros(_MOST_WORKERS, len(self.names), dtype=torch.int64).share_memory_()

    def add(self, name: str) -> None:
        """Counts one more."""
        worker = get_worker_info()
        self.rows[worker.id % _MOST_WORKERS if worker else 0, self.names.index(name)] += 1

    def totals(self) -> dict[str, int]:
        """What this process and all its workers have counted, by name."""
        return dict(zip(self.names, self.rows.sum(0).tolist()))


__all__ = ["WorkerCounts"]
