# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Stops a training at a loss, a gradient or a weight that is not finite, in all processes together."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from .processes import most_anywhere


OK, GRADIENT, LOSS = range(3)
FAULTS = {GRADIENT: "gradient", LOSS: "loss"}
MOST_OVERFLOWS = 32  # steps in a row that a scaler of float16 may leave out: its scale halves each time
SHOWN_SAMPLES = 8
SHOWN_WEIGHTS = 3
REMEDY = "look at these samples, or train with a lower `training.learning_rate` in another `training.output_dir`."


class NotFiniteError(ValueError):
    """A training whose loss, gradient or weights are not finite."""


class FiniteSteps:
    """Checks each step before it changes a weight; DeepSpeed changes them before, but nothing is saved in between.

    Losses stay on their device until the step's gradient is there, so that a step needs one transfer.

    Args:
        accelerator: of the processes.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator, self.overflows = accelerator, 0
        self.batches: list[tuple[torch.Tensor, Sequence[str]]] = []  # loss and samples of this step

    def add(self, loss: torch.Tensor, names: Sequence[str]) -> None:
        """Takes a batch of the step.

        Args:
            loss: a number, () or (1,).
            names: of its samples.
        """
        self.batches.append((loss.detach(), names))

    def check(self, step: int, gradient_norm: torch.Tensor | float | None) -> None:
        """Checks the step, and forgets its batches; all processes call it at the same place.

        Args:
            step: its number.
            gradient_norm: of the step, over all processes, () or (1,); None where it is not known.

        Raises:
            NotFiniteError: naming the step and its samples.
        """
        batches, self.batches = self.batches, []
        finite = self._finite([loss for loss, _ in batches], gradient_norm)
        losses_finite, gradient_finite = finite[:-1], self._is_left_out(finite[-1]) or finite[-1]
        fault = LOSS if not all(losses_finite) else OK if gradient_finite else GRADIENT
        fault = most_anywhere(self.accelerator, fault)
        if fault == OK:
            return
        at_fault = [
            name
            for (_, names), is_finite in zip(batches, losses_finite, strict=True)
            if fault == GRADIENT or not is_finite
            for name in names
        ]
        repeated = f", for {self.overflows} steps in a row" if fault == GRADIENT and self.overflows else ""
        raise NotFiniteError(
            f"The {FAULTS[fault]} is not finite at step {step}{repeated}: {self._describe(at_fault)}; {REMEDY}"
        )

    def check_weights(self, model: nn.Module, step: int) -> None:
        """Checks what is trained before it is saved; all processes call it at the same place.

        Raises:
            NotFiniteError: naming the step and some of the weights.
        """
        rank = self.accelerator.process_index
        trained = [
            (name, _own_part(weight, rank)) for name, weight in model.named_parameters() if weight.requires_grad
        ]
        with torch.no_grad():
            flags = torch.stack([weight.isfinite().all() for _, weight in trained]).tolist()
        failed = [name for (name, _), is_finite in zip(trained, flags, strict=True) if not is_finite]
        if not most_anywhere(self.accelerator, bool(failed)):
            return
        failed = list(dict.fromkeys(gather_object(failed)))
        raise NotFiniteError(
            f"{len(failed)} weights are not finite after step {step}, such as {', '.join(failed[:SHOWN_WEIGHTS])}: "
            "not saved. Train with a lower `training.learning_rate` in another `training.output_dir`."
        )

    def _finite(self, losses: list[torch.Tensor], gradient_norm: torch.Tensor | float | None) -> list[bool]:
        """Returns whether each loss is finite, and at the end whether the norm is."""
        device = self.accelerator.device
        norm = torch.as_tensor(0.0 if gradient_norm is None else _whole(gradient_norm), device=device).float()
        values = torch.stack([*(loss.to(device).float().reshape(()) for loss in losses), norm.reshape(())])
        finite = values.isfinite()
        finite[-1] &= norm >= 0  # DeepSpeed has -1 for a norm that is not finite
        return finite.tolist()

    def _is_left_out(self, gradient_finite: bool) -> bool:
        """Returns whether a scaler of float16 leaves this step out: there, gradients overflow now and then."""
        scaled = self.accelerator.mixed_precision == "fp16"
        self.overflows = self.overflows + 1 if scaled and not gradient_finite else 0
        return 0 < self.overflows < MOST_OVERFLOWS

    def _describe(self, names: list[str]) -> str:
        names = [name for name in gather_object(names) if name]
        more = len(names) - SHOWN_SAMPLES
        return ", ".join(names[:SHOWN_SAMPLES]) + (f" and {more} more" if more > 0 else "")


def _whole(norm: torch.Tensor | float) -> torch.Tensor | float:
    """Returns a norm that FSDP2 has in parts as a tensor of all processes."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _own_part(weight: Any, rank: int) -> torch.Tensor:
    """Returns this process's part of a weight that FSDP2 or DeepSpeed's stage 3 shares out; else the weight."""
    if hasattr(weight, "to_local"):
        return weight.to_local()
    if hasattr(weight, "ds_tensor"):  # what is behind the last process's part is not initialised
        part = weight.ds_tensor.flatten()
        return part[: max(weight.ds_numel - rank * part.numel(), 0)]
    return weight


__all__ = ["FiniteSteps", "NotFiniteError"]
