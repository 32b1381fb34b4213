# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' `Trainer` as all stages run it: to its last step and no further, or to a checkpoint."""

import itertools
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerControl, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from .checkpoints import begin_checkpoint, describe_kept, finish_checkpoint, saving, trained_steps
from .finite_steps import FiniteSteps
from .interruption import Interrupted, SaveWhenInterrupted


# what PyTorch says of workers that ended without an error of their own
KILLED_WORKER = re.compile(r"DataLoader worker.* (is killed by signal|exited unexpectedly)")


class StageTrainer(Trainer):
    """Resumes from a checkpoint of any step, also of the last, and saves one when it is interrupted.

    Stops at a loss, gradient or weight that is not finite. A batch may have the `names` of its samples.

    Args:
        args, kwargs: of [`Trainer`].
    """

    control: TrainerControl
    resumed_step = 0
    interruption: SaveWhenInterrupted | None = None
    has_new_checkpoint = False  # while the one before is kept, whatever `save_total_limit` is

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.args.logging_nan_inf_filter = False  # it logs another loss in place of one that is not finite
        self.finite_steps = FiniteSteps(self.accelerator)

    def run(self, checkpoint: Path | None) -> None:
        """Trains to the last step.

        Args:
            checkpoint: to resume from.

        Raises:
            Interrupted: after SIGINT or SIGTERM.
            ValueError: if the loss, the gradient or a weight is not finite.
            OSError: if a checkpoint can't be written, or a worker of a data loader was killed.
        """
        self.resumed_step = trained_steps(checkpoint) if checkpoint is not None else 0
        self.interruption = SaveWhenInterrupted(self.accelerator)
        self.add_callback(self.interruption)
        with self.interruption.listening(), naming_killed_workers(Path(self.args.output_dir)):
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        if self.state.global_step < self.state.max_steps:
            number = self.interruption.received or signal.SIGTERM  # that of `enable_jit_checkpoint`
            raise Interrupted(Path(self.args.output_dir), number)
        self.finite_steps.check_weights(self.model, self.state.global_step)
        self.remove_old_checkpoints()

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As [`Trainer.training_step`]; keeps the loss and the names of the samples until the end of the step.

        Args:
            model: which is trained.
            inputs: its inputs, and `names` of the samples.
            args, kwargs: further arguments of [`Trainer.training_step`].
        """
        names = inputs.pop("names", ())
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.finite_steps.add(loss, names)
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> torch.Tensor | float | None:
        """As [`Trainer._get_grad_norm`], which is called before the weights change.

        Raises:
            ValueError: naming the step and its samples, if their loss or the norm is not finite.
        """
        norm = super()._get_grad_norm(*args, **kwargs)
        self.finite_steps.check(self.state.global_step + 1, norm)
        self.remove_old_checkpoints()
        return norm

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As [`Trainer._save_checkpoint`]; the checkpoint counts when its manifest is written.

        The one before is removed when the next step has shown that the new one is good.

        Raises:
            ValueError: if a weight is not finite.
            OSError: if a file can't be written.
        """
        self.finite_steps.check_weights(self.model, self.state.global_step)
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with saving(folder), keeping_all_checkpoints(self.args):
            if self.args.should_save:
                begin_checkpoint(folder)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            if not self.args.push_to_hub:
                self._finish_checkpoint(folder)
        self.has_new_checkpoint = True

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As [`Trainer._push_from_checkpoint`], with the manifest."""
        self._finish_checkpoint(Path(checkpoint_folder))
        super()._push_from_checkpoint(checkpoint_folder)

    def _finish_checkpoint(self, folder: Path) -> None:
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            finish_checkpoint(folder)

    def remove_old_checkpoints(self) -> None:
        """Removes those beyond `save_total_limit`, if there is a new one."""
        if self.has_new_checkpoint and self.args.should_save:
            rotate_checkpoints(
                self.args.output_dir,
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.has_new_checkpoint = False

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


@contextmanager
def keeping_all_checkpoints(args: TrainingArguments) -> Iterator[None]:
    """Lifts `save_total_limit` meanwhile."""
    limit, args.save_total_limit = args.save_total_limit, None
    try:
        yield
    finally:
        args.save_total_limit = limit


@contextmanager
def naming_killed_workers(folder: Path) -> Iterator[None]:
    """Raises an error that says what to do when a worker of a data loader was killed.

    Raises:
        OSError: in place of PyTorch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not KILLED_WORKER.search(str(error)):
            raise
        said = str(error).splitlines()[0].partition("DataLoader")
        raise ChildProcessError(
            f"{''.join(said[1:]).rstrip('. ')}: often the machine's memory is too small; lower "
            f"`training.dataloader_num_workers`: {describe_kept(folder)}"
        ) from error


__all__ = ["StageTrainer"]
