# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a training takes from the machine that it runs on: precision, workers, loggers."""

import os
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.utils import logging


logger = logging.get_logger(__name__)

_HALF = ("bf16", "fp16", "bf16_full_eval", "fp16_full_eval")


def fit_accelerator(training: dict[str, Any]) -> None:
    """Sets the values of `TrainingArguments` to float32 on the CPU, in place, where they need a GPU and there is none.

    A recipe that has `use_cpu` stays as it is: on a CPU, `use_cpu: true` with `bf16: true` computes in bfloat16.

    Args:
        training: values of a recipe's section `training`.
    """
    half = [name for name in _HALF if training.get(name)]
    if not half or "use_cpu" in training or torch.accelerator.is_available():
        return
    training |= {"use_cpu": True, **dict.fromkeys(half, False)}
    logger.warning(
        "There is no GPU: training on the CPU in float32. Set `training.use_cpu`=true `training.bf16`=true for "
        "bfloat16."
    )


def without_accelerator(training: dict[str, Any]) -> dict[str, Any]:
    """Returns values of `TrainingArguments` without those that depend on the machine."""
    values = {name: value for name, value in training.items() if name not in (*_HALF, "tf32")}
    return values | {"use_cpu": True}


def limit_workers(args: TrainingArguments) -> None:
    """Lowers `dataloader_num_workers` to the cores that a process has, in place."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # on this machine
    args.dataloader_num_workers = min(args.dataloader_num_workers, max(cores // processes, 1))


def check_loggers(args: TrainingArguments) -> None:
    """Looks for the loggers of `report_to`, which `Trainer` makes only after the model is loaded.

    Raises:
        ValueError: if one is unknown or not installed.
    """
    try:
        for callback in get_reporting_integration_callbacks(args.report_to):
            callback()
    except (ImportError, RuntimeError, ValueError) as error:
        names = ",".join(args.report_to)
        raise ValueError(f"`training.report_to`={names} can't be used: {error} Or set it to none.") from error


__all__ = ["check_loggers", "fit_accelerator", "limit_workers", "without_accelerator"]
