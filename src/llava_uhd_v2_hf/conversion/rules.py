# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Rules from tensors of a released checkpoint to ours, which read both ways: every operation has its inverse."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Operation(NamedTuple):
    """A change of form, from the released tensors to ours and back."""

    forward: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    backward: Callable[[Sequence[Tensor]], Sequence[Tensor]]


OPERATIONS = {
    "rename": Operation(lambda released: released, lambda ours: ours),
    "transpose": Operation(lambda released: [released[0].T], lambda ours: [ours[0].T]),
    # () <-> (1,)
    "scalar to vector": Operation(lambda released: [released[0].reshape(1)], lambda ours: [ours[0].reshape(())]),
    # (c, c, 1, 1) <-> (c, c)
    "convolution to linear": Operation(
        lambda released: [released[0][:, :, 0, 0]], lambda ours: [ours[0][:, :, None, None]]
    ),
    # n tensors <-> (n, ...)
    "stack": Operation(lambda released: [torch.stack(tuple(released))], lambda ours: ours[0].unbind()),
    # n tensors (1, 1, d) <-> (n, d)
    "stack rows": Operation(
        lambda released: [torch.cat(tuple(released))[:, 0]], lambda ours: ours[0][:, None, None].unbind()
    ),
    # (3d, ...) <-> 3 tensors (d, ...)
    "split in thirds": Operation(lambda released: released[0].chunk(3), lambda ours: [torch.cat(tuple(ours))]),
}


@dataclass(frozen=True)
class Rule:
    """Tensors of a released checkpoint and the tensors of ours that hold the same numbers.

    Args:
        released: names in the released checkpoint.
        ours: names in our model's state dict.
        operation: key of `OPERATIONS`.
    """

    released: tuple[str, ...]
    ours: tuple[str, ...]
    operation: str = "rename"

    def to_ours(self, released: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns our tensors, by name, from the released ones in the order of `released`."""
        return dict(zip(self.ours, OPERATIONS[self.operation].forward(released), strict=True))

    def to_released(self, ours: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns the released tensors, by name, from ours in the order of `ours`."""
        return dict(zip(self.released, OPERATIONS[self.operation].backward(ours), strict=True))


def module_rules(released: str, ours: str) -> list[Rule]:
    """Returns the rules for the weight and the bias of a module."""
    return [Rule((f"{released}.{part}",), (f"{ours}.{part}",)) for part in ("weight", "bias")]
