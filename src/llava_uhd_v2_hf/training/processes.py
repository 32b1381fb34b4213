# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What the processes of a training agree on; all of them call each function at the same place."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments


Result = TypeVar("Result")


def most_anywhere(accelerator: Accelerator, number: int) -> int:
    """Returns the largest of the processes' numbers."""
    if accelerator.num_processes == 1:
        return number
    return int(accelerator.gather(torch.tensor([int(number)], device=accelerator.device)).max())


def on_main_process(args: TrainingArguments, action: Callable[[], Result]) -> Result:
    """Runs an action in the main process; returns its result, or raises its error, in all of them.

    Args:
        args: of the training.
        action: its result can be pickled.

    Raises:
        OSError, ValueError: of the action.
    """
    outcome: list[Any] = [None, None]  # result and error
    if args.process_index == 0:
        try:
            outcome[0] = action()
        except (OSError, ValueError) as error:
            outcome[1] = error
    if args.world_size > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


__all__ = ["most_anywhere", "on_main_process"]
