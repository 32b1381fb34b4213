# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Ctrl-C and SIGTERM while a training runs: a checkpoint, and a line about what was kept."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .checkpoints import describe_kept
from .processes import most_anywhere


SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICE = "\nInterrupted: saving a checkpoint when this step ends. Press Ctrl-C again to stop without it.\n"


class Interrupted(KeyboardInterrupt):
    """A training that was interrupted; its message says what was kept.

    Args:
        folder: of the training.
        number: of the signal.

    Attributes:
        exit_code: of the process, as shells give it.
    """

    def __init__(self, folder: Path, number: int = signal.SIGINT):
        super().__init__(f"Interrupted: {describe_kept(folder)}")
        self.exit_code = 128 + number


class SaveWhenInterrupted(TrainerCallback):
    """Ends a training with a checkpoint after the step in which one of its processes gets SIGINT or SIGTERM.

    Args:
        accelerator: of the processes.

    Attributes:
        received: number of the signal; 0 before there is one.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator, self.received, self.process = accelerator, 0, os.getpid()
        self.replaced: dict[int, Any] = {}  # handlers

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals meanwhile, but for ignored ones; Python allows it in the main thread alone."""
        in_main = threading.current_thread() is threading.main_thread()
        heard = [number for number in SIGNALS if in_main and signal.getsignal(number) != signal.SIG_IGN]
        self.replaced = {number: signal.signal(number, self.receive) for number in heard}
        try:
            yield
        finally:
            for number, handler in self.replaced.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def receive(self, number: int, _: FrameType | None) -> None:
        """Remembers a signal.

        Raises:
            KeyboardInterrupt: on the second SIGINT.
        """
        if os.getpid() != self.process:  # a forked worker of a data loader reads on
            return
        if number == self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        if hasattr(signal, "SIGCHLD"):  # PyTorch's handler raises in the middle of a step if workers have ended too
            self.replaced.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))
        os.write(2, NOTICE.encode())  # a buffered stream may be in the middle of a write

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Ends the training, unless it is at its end; without an evaluation that is due, which may take long."""
        if self.received_anywhere() and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """As at the end of a step, if a signal comes while the training evaluates."""
        self.on_step_end(args, state, control)

    def received_anywhere(self) -> bool:
        """Returns whether one of the processes has got a signal; all of them call it at the same place."""
        self.received = most_anywhere(self.accelerator, self.received)
        return self.received > 0

    def failed_anywhere(self, failed: bool) -> bool:
        """Returns whether something has failed in one of the processes; all of them call it at the same place."""
        return most_anywhere(self.accelerator, failed) > 0


__all__ = ["Interrupted", "SaveWhenInterrupted"]
