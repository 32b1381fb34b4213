# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' `Trainer` for VDIM pre-training: what stops it, what is logged, how a stream is read."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ...stage_trainer import StageTrainer
from .images import VdimStream, collate


logger = logging.get_logger(__name__)


class VdimTrainer(StageTrainer):
    """Names what stops a training, logs the parts of the loss, and lets a stream be read by every process alone.

    Args:
        args, kwargs: of `Trainer`.
        max_unreadable: how many images may be skipped.
        skipped_file: where they are listed, also those of other processes, and from before a resume.
    """

    def __init__(self, *args: Any, max_unreadable: int, skipped_file: Path, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.max_unreadable = max_unreadable
        self.skipped_file = skipped_file
        self.skipped = read_lines(skipped_file)
        self.parts: dict[str, list[torch.Tensor]] = {}

    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self.train_dataset, VdimStream):
            return super().get_train_dataloader()
        return DataLoader(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            collate_fn=collate,
            num_workers=self.args.dataloader_num_workers,
        )

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As [`StageTrainer.training_step`].

        Raises:
            ValueError: if too many images can't be read.
        """
        self.count_skipped(inputs.pop("skipped"), inputs["names"])
        return super().training_step(model, inputs, *args, **kwargs)

    def count_skipped(self, skipped: list[str], names: list[str]) -> None:
        """Names images that can't be read, and ends the training when they are too many."""
        for entry in skipped:
            if entry not in self.skipped:
                self.skipped.append(entry)
                logger.warning(f"Skipped {entry}")
                with open(self.skipped_file, "a", encoding="utf-8") as file:
                    file.write(f"{entry}\n")
        if len(self.skipped) > self.max_unreadable or "" in names:
            raise ValueError(
                f"{len(self.skipped)} images can't be read, more than `data.max_unreadable`={self.max_unreadable} "
                f"allows, or all; the last is {(self.skipped or ['unknown'])[-1]}"
            )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        outputs = model(**inputs)
        for name, value in outputs.items():
            if name != "loss":
                self.parts.setdefault(name, []).append(value)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the parts of the loss: means since the last time, over all processes."""
        if "loss" in logs and self.parts:
            means = torch.stack([torch.stack(values).mean() for values in self.parts.values()])
            means = self.accelerator.reduce(means, reduction="mean").tolist()
            logs |= dict(zip(self.parts, means))
            self.parts = {}
        super().log(logs, *args, **kwargs)


class FirstSteps(TrainerCallback):
    """Clips the gradient's norm to another value in the first steps (released code)."""

    def __init__(self, steps: int, norm: float, later: float):
        self.steps, self.norm, self.later = steps, norm, later

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        args.max_grad_norm = self.norm if state.global_step < self.steps else self.later


def read_lines(path: Path) -> list[str]:
    """The different lines of a file; none if it is not there."""
    return list(dict.fromkeys(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
