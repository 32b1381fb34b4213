# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Seeded random draws that do not depend on the number of processes or workers."""

from typing import Any

import numpy as np
import torch


def generator(*numbers: int, device: Any = "cpu") -> torch.Generator:
    """Returns a random generator whose stream depends on all of the numbers.

    Args:
        numbers: such as the seed of a training and the number of a sample; not negative.
        device: of the generator.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])  # torch's CPU generator takes 32 bits
    return torch.Generator(device).manual_seed(seed)


__all__ = ["generator"]
