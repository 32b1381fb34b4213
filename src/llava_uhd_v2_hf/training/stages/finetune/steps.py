# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""How many steps a training has, and how many of them are warm-up."""

import math

from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType


FEW_STEPS = 10  # with the recipes' warm-up of 3 %, a tenth of these or more


def describe_steps(args: TrainingArguments, batch_size: int, samples: int | None) -> str:
    """Says how samples and batch make the steps, and what to change if they are few or all warm-up.

    Args:
        args: of the training.
        batch_size: samples a step.
        samples: of an epoch; None for a stream.

    Raises:
        ValueError: if the only step is warm-up, in which the learning rate is 0, and the recipe doesn't say so.
    """
    counted = args.max_steps > 0
    epoch = None if samples is None else math.ceil(samples / batch_size)
    steps = args.max_steps if counted or epoch is None else math.ceil(args.num_train_epochs * epoch)
    warmup = 0 if args.lr_scheduler_type == SchedulerType.CONSTANT else min(args.get_warmup_steps(steps), steps)
    total = f"{_count(steps)}, of which {warmup:,} {'is' if warmup == 1 else 'are'} warm-up"
    if epoch is None:
        line = f"A stream in batches of {batch_size}: {total}"
    else:
        whole = total if steps == epoch else f"{_count(epoch)} an epoch; {total}"
        line = f"{samples:,} samples / batch {batch_size} = {whole}"
    if not warmup or (steps > FEW_STEPS and warmup < steps):
        return f"{line}."
    longer = "raise `training.max_steps`" if counted else "lower `batch_size` or raise `training.num_train_epochs`"
    if steps == 1 and not counted:
        raise ValueError(f"{line}: it would change no weight; {longer}.")
    return f"{line}: {longer}, or lower `training.warmup_steps`."


def _count(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps:,} steps"


__all__ = ["describe_steps"]
