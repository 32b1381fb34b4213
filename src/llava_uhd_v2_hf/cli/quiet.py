# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What commands leave out of the output of libraries."""

import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


BAR_DELAY = 2.0  # seconds before a progress bar appears


def quietly(command: Callable[..., None]) -> Callable[..., None]:
    """Returns a command that runs [`without_noise`]."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        with without_noise():
            command(**values)

    return run


@contextmanager
def without_noise() -> Iterator[None]:
    """Hides transformers' progress bars of short tasks, and what bitsandbytes and PEFT tell those who develop them."""
    from transformers.utils.logging import set_tqdm_hook  # takes a second

    previous = set_tqdm_hook(lambda bar, args, options: bar(*args, **{"delay": BAR_DELAY} | options))
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(_is_not_advice)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            yield
    finally:
        logger.removeFilter(_is_not_advice)
        set_tqdm_hook(previous)


def _is_not_advice(record: logging.LogRecord) -> bool:
    return "kernels-community" not in record.getMessage()


__all__ = ["quietly"]
