# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Checks of a config.json before anything is built from it, whoever wrote it.

transformers' configurations check types. They take any number, and what is built from them allocates memory and
runs loops of its size, so numbers are held within limits first, and then compared with the weights.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..utils.errors import file_errors


# Largest sensible values of the integers that sizes and loops depend on; the smallest is 1.
LARGEST = {
    "vocab_size": 2**22,
    "hidden_size": 2**16,
    "embed_dim": 2**16,
    "n_embd": 2**16,
    "mm_hidden_size": 2**16,
    "projection_dim": 2**16,
    "intermediate_size": 2**20,
    "num_hidden_layers": 2**10,
    "n_layer": 2**10,
    "num_attention_heads": 2**10,
    "num_key_value_heads": 2**10,
    "head_dim": 2**12,
    "image_size": 2**13,
    "patch_size": 2**10,
    "num_channels": 2**4,
    "num_experts": 2**12,
    "num_local_experts": 2**12,
    "num_query_sets": 2**6,
    "mlp_depth": 2,
    "upsampler_kernel_size": 2**6,
    "upsampler_guidance_size": 2**12,
    "max_position_embeddings": 2**30,
}
SIDES = {"query_grid": 2**7, "perceiver_grid": 2**7}  # lists of two
FRACTIONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "initializer_range")  # in [0, 1)
POSITIVE = ("rope_theta",)
TEXTS = ("model_type", "hidden_act", "mm_projector_type", "mm_vision_tower")
CHECKED = {*LARGEST, *SIDES, *FRACTIONS, *POSITIVE, *TEXTS}
# Sizes that appear as a dimension of some weight, and loops that bring at least one weight a turn.
DIMENSIONS = ("vocab_size", "hidden_size", "intermediate_size", "embed_dim", "n_embd")
LOOPS = ("num_hidden_layers", "n_layer")


def check_config_values(values: Mapping[str, Any], place: str) -> None:
    """Checks the numbers of a configuration and of its sub-configurations.

    Args:
        values: of a config.json; keys that are None or unknown are passed over.
        place: the file, for messages.

    Raises:
        ValueError: if a value has another type or is out of range.
    """
    for key, value in _entries(values):
        name = key.rpartition(".")[2]
        each = value if isinstance(value, (list, tuple)) else [value]  # some models have one a layer
        if name in LARGEST and not all(_is_size(side, LARGEST[name]) for side in each):
            _refuse(key, value, f"an integer from 1 to {LARGEST[name]}", place)
        if name in SIDES and not (len(each) == 2 and all(_is_size(side, SIDES[name]) for side in each)):
            _refuse(key, value, f"two integers from 1 to {SIDES[name]}", place)
        if name in FRACTIONS and not (_is_number(value) and 0 <= value < 1):
            _refuse(key, value, "a number of at least 0 and below 1", place)
        if name in POSITIVE and not (_is_number(value) and value > 0):
            _refuse(key, value, "a positive number", place)
        if name in TEXTS and not isinstance(value, str):
            _refuse(key, value, "a text", place)


def check_config_sizes(values: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], place: str) -> None:
    """Compares the numbers of a configuration with its weights, before a model of that size is built.

    Args:
        values: of a config.json that [`check_config_values`] has passed.
        shapes: shape of every tensor of the weights, by name.
        place: the file, for messages.

    Raises:
        ValueError: if a size is larger than every dimension of the weights, or has more layers than they have tensors.
    """
    largest = max((side for shape in shapes.values() for side in shape), default=0)
    for key, value in _entries(values):
        name = key.rpartition(".")[2]
        sizes = value if isinstance(value, (list, tuple)) else [value]
        if name in DIMENSIONS and max(sizes, default=0) > largest:
            _refuse(key, value, f"a size of its weights, whose largest dimension is {largest}", place)
        if name in LOOPS and max(sizes, default=0) > len(shapes):
            _refuse(key, value, f"at most one layer for each of its {len(shapes)} tensors", place)


def check_model_size(described: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]], place: str) -> None:
    """Checks that a model is not larger than its weights, before memory is allocated for it.

    Args:
        described: shape of every tensor that the configuration describes, by name.
        shapes: shape of every tensor of the weights, by name.
        place: the file of the configuration, for messages.

    Raises:
        ValueError: if it is.
    """
    expected, found = (sum(math.prod(shape) for shape in table.values()) for table in (described, shapes))
    if expected > found:
        raise ValueError(
            f"{place} describes a model of {expected} numbers, but its weights have {found}; compare both with the "
            "original's."
        )


def config_errors(place: str) -> AbstractContextManager[None]:
    """Turns whatever transformers raises about a configuration into a ValueError that names its file."""
    return file_errors(place, "describes a model that can't be built")


def _entries(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values, and those of sub-configurations as "text_config.hidden_size"; passes None over."""
    for key, value in values.items():
        if isinstance(value, Mapping) and key not in CHECKED:
            yield from _entries(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _is_size(value: object, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= largest


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refuse(key: str, value: object, expected: str, place: str) -> None:
    shown = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:80]}…"
    raise ValueError(f"Expected `{key}` in {place} to be {expected}, got {shown}.")


__all__ = ["check_config_sizes", "check_config_values", "check_model_size", "config_errors"]
