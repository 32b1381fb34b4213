# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A warning before the disk is full."""

from pathlib import Path

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ..utils.atomic import free_bytes


logger = logging.get_logger(__name__)


class DiskSpace(TrainerCallback):
    """Warns when the next checkpoint will not fit on the disk; the training goes on.

    Before the first checkpoint, its size is estimated: weights and two moments of what is trained.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        """Warns if the first checkpoint will not fit."""
        if args.should_save and model is not None and args.save_strategy != "no":
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            self.warn(args, sum(3 * parameter.numel() * parameter.itemsize for parameter in trained))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Warns if another checkpoint of the same size will not fit."""
        if args.should_save and state.global_step < state.max_steps:
            files = Path(args.output_dir, f"checkpoint-{state.global_step}").rglob("*")
            self.warn(args, sum(file.stat().st_size for file in files))

    def warn(self, args: TrainingArguments, needed: int) -> None:
        """
        Args:
            args: say where checkpoints are written.
            needed: bytes of the next one.
        """
        if (free := free_bytes(Path(args.output_dir))) < needed:
            logger.warning(
                f"The next checkpoint needs about {needed / 1e9:.1f} GB, but the disk of {args.output_dir} has "
                f"{free / 1e9:.1f} GB free; make room, or lower `training.save_total_limit`."
            )


__all__ = ["DiskSpace"]
