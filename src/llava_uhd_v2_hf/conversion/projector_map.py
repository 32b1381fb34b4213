# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The tensors of every kind of projector: rules to ours, and what the released classes hold but never use."""

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from math import prod

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from .rules import Rule, module_rules


RELEASED_PROJECTOR = "model.mm_projector."
RELEASED_STAGES = "model.mm_projector.upsampler.upsampler."
PROJECTOR = "model.visual.projector."
ATTENTION = "model.visual.projector.window_attention."
UPSAMPLER = "model.visual.projector.upsampler."

# Modules with a weight and a bias: released name, our name.
HIWIN_MODULES = (
    ("ln_q", "norm_query"),
    ("ln_kv", "norm_features"),
    ("ln_proj", "norm_attention"),
    ("ln_post", "norm_output"),
    ("attn.out_proj", "output"),
    ("cat_proj", "mix"),
)
RESAMPLER_MODULES = (
    ("ln_q", "norm_query"),
    ("ln_kv", "norm_features"),
    ("attn.out_proj", "attention.output"),
)
STAGE_MODULES = (
    ("range_proj.0", "range_in"),
    ("range_proj.3", "range_out"),
    ("fixup_proj.0", "residual_in"),
    ("fixup_proj.3", "residual_out"),
)
STAGE_SCALARS = (
    ("range_temp", "range_temperature"),
    ("sigma_spatial", "spatial_width"),
)
# Released module of each fix-up, by the number of up-sampling steps: level, name.
FIXUPS = {
    0: (),
    1: ((1, "fixup_proj"),),
    2: ((2, "fixup_proj"),),
    3: ((1, "fixup_proj_2x"), (2, "fixup_proj_4x"), (3, "fixup_proj_8x")),
}

# The up-sampler's pre-training file: its prefix, the released one. What else it holds served that training.
VDIM_PREFIX = ("upsampler.", RELEASED_STAGES)
VDIM_UNUSED = (
    "linear_acc",
    "linear_iou",
    "model.*",
    "validation_model.*",
    "downsampler.*",
    "downsampler_2x.*",
    "scale_net.*",
    "scale_net_2x.*",
)

# Released tensors of a projector that have no place in ours, once the rules have taken theirs: pattern, reason.
UNUSED_BY_THE_CLASS = "the released class holds it but never uses it"
_UPSAMPLER_UNUSED = (
    ("upsampler.model.0.*", "a second copy of the vision tower that is never run"),
    ("upsampler.model.1.norm.*", "a channel norm that is never run"),
    ("upsampler.upsampler.fixup_proj.*", "the three-step stack never runs it"),
)
_MLP_UNUSED = ("pos_embed", "query", "kv_proj.weight", "attn.*", "ln_*", "cat_proj.*", "conv_pool.*")
_PERCEIVER_UNUSED = (
    *("pos_embed", "ln_proj.*", "ln_post.*", "proj", "cat_proj.*", "conv_pool.*"),
    *("latent_tokens", "ffn.*"),
)
UNUSED_OF_PROJECTORS = {
    "hiwin": (
        *_UPSAMPLER_UNUSED,
        ("query", "only the numbered query sets are read"),
        ("kv_proj.weight", "every level has its own projection"),
        ("features_[1248]x_projector.*", "its level is outside `feature_scale_mask`"),
        ("feature_[1248]x_embedding", "its level is outside `feature_scale_mask`"),
    ),
    "mlp_pyramid": (*_UPSAMPLER_UNUSED, *((pattern, UNUSED_BY_THE_CLASS) for pattern in _MLP_UNUSED)),
    "perceiver": (*_UPSAMPLER_UNUSED, *((pattern, UNUSED_BY_THE_CLASS) for pattern in _PERCEIVER_UNUSED)),
}

# How an export fills released tensors that are never used: name, shape in letters (q queries, d width of the text
# model, c of the tower), how the released code initialises it. The copy of the tower is copied from the tower.
TOWER_COPY = (f"{RELEASED_PROJECTOR}upsampler.model.0.vision_tower.vision_model.", "model.visual.vision_tower.")
_NORM = (("upsampler.model.1.norm.weight", "c", "ones"), ("upsampler.model.1.norm.bias", "c", "zeros"))
_LAYER_NORMS = {
    name: ((f"{name}.weight", "d", "ones"), (f"{name}.bias", "d", "zeros"))
    for name in ("ln_q", "ln_kv", "ln_proj", "ln_post")
}
_MIX = (("cat_proj.weight", "d 4d", "normal"), ("cat_proj.bias", "d", "zeros"))
FILLED = {
    "hiwin": (("query", "q d", "normal"), ("kv_proj.weight", "d c", "normal"), *_NORM),
    "mlp_pyramid": (
        ("pos_embed", "q d", "sines and cosines"),
        ("query", "q d", "normal"),
        ("kv_proj.weight", "d c", "normal"),
        ("attn.in_proj_weight", "3d d", "Xavier-uniform"),
        ("attn.in_proj_bias", "3d", "zeros"),
        ("attn.out_proj.weight", "d d", "normal"),
        ("attn.out_proj.bias", "d", "zeros"),
        *_LAYER_NORMS["ln_q"],
        *_LAYER_NORMS["ln_kv"],
        *_LAYER_NORMS["ln_proj"],
        *_LAYER_NORMS["ln_post"],
        *_MIX,
        ("conv_pool.weight", "c c 2 2", "uniform"),
        ("conv_pool.bias", "c", "zeros"),
        *_NORM,
    ),
    "perceiver": (
        ("pos_embed", "q d", "sines and cosines"),
        ("latent_tokens", "1 4096 c", "standard normal"),
        *_LAYER_NORMS["ln_proj"],
        *_LAYER_NORMS["ln_post"],
        ("proj", "c d", "normal"),
        *_MIX,
        ("conv_pool.weight", "d c 2 2", "uniform"),
        ("conv_pool.bias", "d", "zeros"),
        ("ffn.0.weight", "c c", "uniform"),
        ("ffn.0.bias", "c", "zeros"),
        ("ffn.2.weight", "d c", "uniform"),
        ("ffn.2.bias", "d", "zeros"),
        *_NORM,
    ),
}
LEVEL_FILLED = (
    ("features_{}x_projector.weight", "d c", "normal"),
    ("features_{}x_projector.bias", "d", "zeros"),
    ("feature_{}x_embedding", "1 1 d", "zeros"),
)
NUM_RELEASED_LEVELS = 4


def projector_rules(projector: LlavaUhdV2ProjectorConfig) -> list[Rule]:
    """Returns the rules for a projector with its up-sampler; none for a kind that the released code does not have."""
    if projector.projector_type not in RULES:
        return []
    return [*RULES[projector.projector_type](projector), *_upsampler_rules(projector)]


def _hiwin_rules(projector: LlavaUhdV2ProjectorConfig) -> list[Rule]:
    levels, sets = projector.levels, range(1, projector.num_query_sets + 1)
    rules = [
        Rule((f"{RELEASED_PROJECTOR}pos_embed",), (f"{ATTENTION}position_embeddings",)),
        Rule((f"{RELEASED_PROJECTOR}proj",), (f"{ATTENTION}projection.weight",), "transpose"),
        Rule(tuple(f"{RELEASED_PROJECTOR}query_{i}" for i in sets), (f"{ATTENTION}queries",), "stack"),
        Rule(
            tuple(f"{RELEASED_PROJECTOR}feature_{2**level}x_embedding" for level in levels),
            (f"{ATTENTION}level_embeddings",),
            "stack rows",
        ),
        *_input_rules(ATTENTION),
    ]
    for released, ours in HIWIN_MODULES:
        rules += module_rules(RELEASED_PROJECTOR + released, ATTENTION + ours)
    for level in levels:
        released = f"{RELEASED_PROJECTOR}features_{2**level}x_projector"
        rules += module_rules(released, f"{ATTENTION}level_projections.{level}")
    return rules


def _input_rules(attention: str) -> list[Rule]:
    """Returns the rules for the input projections of an attention."""
    rules = []
    for part in ("weight", "bias"):
        thirds = tuple(f"{attention}{name}.{part}" for name in ("query", "key", "value"))
        rules.append(Rule((f"{RELEASED_PROJECTOR}attn.in_proj_{part}",), thirds, "split in thirds"))
    return rules


def _perceiver_rules(projector: LlavaUhdV2ProjectorConfig) -> list[Rule]:
    rules = [
        Rule((f"{RELEASED_PROJECTOR}query",), (f"{PROJECTOR}queries",)),
        Rule((f"{RELEASED_PROJECTOR}kv_proj.weight",), (f"{PROJECTOR}level_projection.weight",)),
        *_input_rules(f"{PROJECTOR}attention."),
    ]
    for released, ours in RESAMPLER_MODULES:
        rules += module_rules(RELEASED_PROJECTOR + released, PROJECTOR + ours)
    return rules


def _uhd_v1_rules(projector: LlavaUhdV2ProjectorConfig) -> list[Rule]:
    return [
        *_perceiver_rules(projector),
        Rule((f"{RELEASED_PROJECTOR}pos_embed",), (f"{PROJECTOR}position_embeddings",)),
        Rule((f"{RELEASED_PROJECTOR}proj",), (f"{PROJECTOR}projection.weight",), "transpose"),
        *module_rules(f"{RELEASED_PROJECTOR}ln_post", f"{PROJECTOR}norm_output"),
    ]


def _mlp_pyramid_rules(projector: LlavaUhdV2ProjectorConfig) -> list[Rule]:
    return [  # every second module of the released sequence is a GELU
        rule
        for layer in range(projector.mlp_depth)
        for rule in module_rules(f"{RELEASED_PROJECTOR}proj.{2 * layer + 1}", f"{PROJECTOR}layers.{layer}")
    ]


def _mlp_rules(projector: LlavaUhdV2ProjectorConfig) -> list[Rule]:
    return [
        *module_rules(f"{RELEASED_PROJECTOR}0", f"{PROJECTOR}expand"),
        *module_rules(f"{RELEASED_PROJECTOR}2", f"{PROJECTOR}projection"),
    ]


RULES: dict[str, Callable[[LlavaUhdV2ProjectorConfig], list[Rule]]] = {
    "hiwin": _hiwin_rules,
    "uhd_v1": _uhd_v1_rules,
    "mlp_pyramid": _mlp_pyramid_rules,
    "perceiver": _perceiver_rules,
    "mlp": _mlp_rules,
}


def _upsampler_rules(projector: LlavaUhdV2ProjectorConfig) -> list[Rule]:
    steps = max(projector.levels) if projector.upsampler == "vdim" else 0
    rules = []
    for index in range(steps):
        released_stage, our_stage = f"{RELEASED_STAGES}up{index + 1}.", f"{UPSAMPLER}stages.{index}."
        for released, ours in STAGE_SCALARS:
            rules.append(Rule((released_stage + released,), (our_stage + ours,), "scalar to vector"))
        for released, ours in STAGE_MODULES:
            rules += module_rules(released_stage + released, our_stage + ours)
    for level, name in FIXUPS[steps]:
        released, ours = f"{RELEASED_STAGES}{name}.1", f"{UPSAMPLER}fixups.{level}"
        rules.append(Rule((f"{released}.weight",), (f"{ours}.weight",), "convolution to linear"))
        rules.append(Rule((f"{released}.bias",), (f"{ours}.bias",)))
    return rules


def unused_fillings(config: LlavaUhdV2Config) -> dict[str, tuple[list[int], str]]:
    """Returns shape and filling, a key of `export.FILLINGS`, of the released tensors that are never used, by name.

    The copy of the vision tower is not among them.
    """
    projector = config.projector_config
    letters = {
        "q": prod(projector.query_grid),
        "d": config.text_config.hidden_size,
        "c": config.vision_config.hidden_size,
    }
    filled = [*FILLED.get(projector.projector_type, ())]
    if projector.projector_type == "hiwin":
        for level in sorted(set(range(NUM_RELEASED_LEVELS)) - set(projector.levels)):
            filled += [(name.format(2**level), shape, filling) for name, shape, filling in LEVEL_FILLED]
    return {RELEASED_PROJECTOR + name: (_read_shape(shape, letters), filling) for name, shape, filling in filled}


def _read_shape(shape: str, letters: dict[str, int]) -> list[int]:
    """Reads a shape such as "4d c 2"."""
    sides = [re.fullmatch(r"(\d*)([a-z]?)", side) for side in shape.split()]
    return [int(side[1] or 1) * letters.get(side[2], 1) for side in sides if side]


def has_tower_copy(projector: LlavaUhdV2ProjectorConfig) -> bool:
    """Whether the released class of the projector holds a copy of the vision tower, as its up-sampler does."""
    return projector.projector_type in UNUSED_OF_PROJECTORS


def reason_of_projector(name: str, projector: LlavaUhdV2ProjectorConfig) -> str:
    """Returns why a tensor of the released projector has no place in ours; empty if there is no reason."""
    patterns = UNUSED_OF_PROJECTORS.get(projector.projector_type, ())
    return next((reason for pattern, reason in patterns if fnmatchcase(name, RELEASED_PROJECTOR + pattern)), "")
