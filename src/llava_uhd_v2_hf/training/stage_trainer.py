# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' `Trainer` as all stages run it: to its last step and no further, or to a checkpoint."""

import signal
from pathlib import Path
from typing import Any

from transformers import Trainer

from .interruption import Interrupted, SaveWhenInterrupted
from .run_state import last_checkpoint, trained_steps


class StageTrainer(Trainer):
    """Resumes from a checkpoint of any step, also of the last, and saves one when it is interrupted."""

    resumed_step = 0

    def run(self, checkpoint: Path | None) -> None:
        """Trains to the last step.

        Args:
            checkpoint: to resume from.

        Raises:
            Interrupted: after SIGINT or SIGTERM.
        """
        self.resumed_step = trained_steps(checkpoint) if checkpoint is not None else 0
        interruption = SaveWhenInterrupted(self.accelerator)
        self.add_callback(interruption)
        with interruption.listening():
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        if self.state.global_step < self.state.max_steps:
            number = interruption.received or signal.SIGTERM  # which transformers handles with `enable_jit_checkpoint`
            raise Interrupted(last_checkpoint(Path(self.args.output_dir)), number)

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """As `Trainer`'s, with no epochs when a checkpoint has every step: inside an epoch, `Trainer` takes another."""
        epochs, *others, max_steps = super().set_initial_training_values(*args, **kwargs)
        return (0 if self.resumed_step >= max_steps else epochs, *others, max_steps)


__all__ = ["StageTrainer"]
