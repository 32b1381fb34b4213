# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The kinds of checkpoints of the released code, by their `mm_projector_type`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from .processor_files import MAX_SLICES


NUM_QUERY_SETS = 4


@dataclass(frozen=True)
class ReleasedKind:
    """A kind of checkpoint of the released code, which `mm_projector_type` and a mode tell.

    Attributes:
        title: in words.
        projector: our `projector_config`, but for the levels.
        token_layout: order of an image's tokens.
        modes: the values that each of two keys may have, beside being absent; an export writes the first one.
        levels: choices of levels that the released code computes; with one the mask is not read.
        max_slices: of an image, as it was evaluated.
    """

    title: str
    projector: dict[str, Any]
    token_layout: Literal["spatial", "sequential"]
    modes: Mapping[str, tuple[str | None, ...]]
    levels: tuple[list[int], ...] = ([0, 1], [0, 2], [0, 1, 2])
    max_slices: int = MAX_SLICES


V1_RELEASE = ReleasedKind(
    "LLaVA-UHD v1",
    {"projector_type": "uhd_v1"},
    "sequential",
    {"feature_mode": (None,), "model_mode": (None,)},
    levels=([0],),
    max_slices=7,
)
_SEQUENTIAL = {"feature_mode": (None,), "model_mode": ("uhd_v2",)}
_V1_MODE = {"feature_mode": (None, "uhd_v1"), "model_mode": ("uhd_v1",)}
# by `mm_projector_type`
RELEASED_KINDS = {
    "adapt_spatial_resampler": ReleasedKind(
        "LLaVA-UHD v2, tokens in one map",
        {"projector_type": "hiwin", "num_query_sets": NUM_QUERY_SETS},
        "spatial",
        {"feature_mode": ("featup_muti_res",), "model_mode": (None,)},
    ),
    "adapt_spatial_resampler_v2": ReleasedKind(
        "LLaVA-UHD v2, tokens slice by slice",
        {"projector_type": "hiwin", "num_query_sets": NUM_QUERY_SETS},
        "sequential",
        _SEQUENTIAL,
    ),
    "adapt_spatial_resampler_v1": ReleasedKind(
        "the resampler of LLaVA-UHD v1", {"projector_type": "uhd_v1"}, "sequential", _V1_MODE, levels=([0],)
    ),
    "uhd_v1_query64": ReleasedKind(
        "the resampler of LLaVA-UHD v1 with 64 queries",
        {"projector_type": "uhd_v1", "query_grid": [8, 8]},
        "sequential",
        _V1_MODE,
        levels=([0],),
    ),
    "mlp-v2": ReleasedKind(
        "a perceptron of two layers on two levels",
        {"projector_type": "mlp_pyramid", "mlp_depth": 2},
        "sequential",
        _SEQUENTIAL,
        levels=([0, 1], [0, 2]),
    ),
    "mlp144": ReleasedKind(
        "a perceptron of one layer on three levels",
        {"projector_type": "mlp_pyramid", "mlp_depth": 1},
        "sequential",
        _SEQUENTIAL,
        levels=([0, 1, 2],),
    ),
    "percive_sampler": ReleasedKind(
        "a perceiver resampler", {"projector_type": "perceiver"}, "sequential", _SEQUENTIAL
    ),
}
DEFAULT_SCALE_MASK = 7  # of the released code, where config.json has none


def find_kind(values: dict[str, Any]) -> ReleasedKind:
    """Returns the kind of a released checkpoint. LLaVA-UHD v1 has a type name of v2, but neither mode nor mask.

    Raises:
        ValueError: if it is not supported.
    """
    projector_type = values.get("mm_projector_type")
    if projector_type is None:
        raise ValueError("config.json has no `mm_projector_type`.")
    if projector_type not in RELEASED_KINDS:
        raise ValueError(
            f"`mm_projector_type`={projector_type!r} is not supported; it must be one of {', '.join(RELEASED_KINDS)}."
        )
    of_v2 = any(values.get(key) is not None for key in ("feature_mode", "feature_scale_mask"))
    return RELEASED_KINDS[projector_type] if of_v2 or projector_type != "adapt_spatial_resampler" else V1_RELEASE


def released_kind(config: LlavaUhdV2Config) -> tuple[str, ReleasedKind]:
    """Returns `mm_projector_type` and the kind that is nearest to our configuration.

    Raises:
        ValueError: if the released code has no such projector.
    """
    projector = config.projector_config
    kinds = [
        (name, kind)
        for name, kind in RELEASED_KINDS.items()
        if kind.projector["projector_type"] == projector.projector_type
    ]
    if not kinds:
        types = dict.fromkeys(kind.projector["projector_type"] for kind in RELEASED_KINDS.values())
        raise ValueError(
            f"The released code cannot compute this model: `projector_config.projector_type`="
            f"{projector.projector_type}, must be one of {', '.join(types)}."
        )

    def similarity(kind: ReleasedKind) -> int:
        same = [getattr(projector, key) == value for key, value in kind.projector.items()]
        return sum(same) + (kind.token_layout == config.token_layout)

    return max(kinds, key=lambda entry: similarity(entry[1]))
