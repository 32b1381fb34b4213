# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A rule for pooling grids from outside the package: windows have more cells on finer levels."""

from collections.abc import Sequence

from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import choose_pooling_grid
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import POOLING_GRIDS


def growing_grid(height: int, width: int, level: int, candidates: Sequence[Sequence[int]]) -> tuple[int, int]:
    rows, columns = choose_pooling_grid(height, width, candidates)
    return rows + level, columns + level


POOLING_GRIDS["growing"] = growing_grid
