# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' `Trainer` as all stages run it: to its last step and no further, or to a checkpoint."""

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerControl

from .interruption import Interrupted, SaveWhenInterrupted
from .run_state import last_checkpoint, trained_steps


class StageTrainer(Trainer):
    """Resumes from a checkpoint of any step, also of the last, and saves one when it is interrupted."""

    control: TrainerControl
    resumed_step = 0
    interruption: SaveWhenInterrupted | None = None

    def run(self, checkpoint: Path | None) -> None:
        """Trains to the last step.

        Args:
            checkpoint: to resume from.

        Raises:
            Interrupted: after SIGINT or SIGTERM.
        """
        self.resumed_step = trained_steps(checkpoint) if checkpoint is not None else 0
        self.interruption = SaveWhenInterrupted(self.accelerator)
        self.add_callback(self.interruption)
        with self.interruption.listening():
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        if self.state.global_step < self.state.max_steps:
            number = self.interruption.received or signal.SIGTERM  # that of `enable_jit_checkpoint`
            raise Interrupted(last_checkpoint(Path(self.args.output_dir)), number)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, *args: Any, **kwargs: Any
    ) -> tuple[list[Any], torch.Tensor | int | None]:
        """As [`Trainer.get_batch_samples`]; ends the training here if a signal has ended workers of a data loader.

        Args:
            epoch_iterator: of the epoch's batches.
            num_batches: to take of it.
            args, kwargs: further arguments of [`Trainer.get_batch_samples`].
        """
        batches, interruption, failed = [], self.interruption, False
        try:
            batches = list(itertools.islice(epoch_iterator, num_batches))
        except Exception:
            if interruption is None or not interruption.received:
                raise
            failed = True
        if interruption is not None and interruption.failed_anywhere(failed):
            self.control.should_save = self.state.global_step > 0
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(iter(batches), num_batches, *args, **kwargs)

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """As [`Trainer.set_initial_training_values`], with no epochs after the last step.

        `Trainer` would take another one where the last step lies inside an epoch.

        Args:
            args, kwargs: of [`Trainer.set_initial_training_values`].
        """
        epochs, *others, max_steps = super().set_initial_training_values(*args, **kwargs)
        return (0 if self.resumed_step >= max_steps else epochs, *others, max_steps)


__all__ = ["StageTrainer"]
