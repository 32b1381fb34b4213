# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Which tensor of a released checkpoint becomes which tensor of ours, as data that reads both ways.

A [`Rule`] names the released tensors, ours, and the operation between them; every operation has its inverse. The
names of the language model and of the vision tower are those that our model has, under another prefix.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from .config_checks import config_errors


INPUT_EMBEDDINGS = "model.language_model.embed_tokens.weight"
OUTPUT_EMBEDDINGS = "lm_head.weight"

# released prefix, our prefix
PREFIXES = (
    ("model.vision_tower.vision_tower.vision_model.", "model.visual.vision_tower."),
    ("model.", "model.language_model."),
    ("lm_head.", "lm_head."),
)

RELEASED_PROJECTOR = "model.mm_projector."
RELEASED_ATTENTION = RELEASED_PROJECTOR
RELEASED_STAGES = "model.mm_projector.upsampler.upsampler."
PROJECTOR = "model.visual.projector."
ATTENTION = "model.visual.projector.window_attention."
UPSAMPLER = "model.visual.projector.upsampler."

# Modules with a weight and a bias: released name, our name.
ATTENTION_MODULES = (
    ("ln_q", "norm_query"),
    ("ln_kv", "norm_features"),
    ("ln_proj", "norm_attention"),
    ("ln_post", "norm_output"),
    ("attn.out_proj", "output"),
    ("cat_proj", "mix"),
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

# Released tensors that have no place in our model, once the rules have taken theirs: pattern, reason.
UNUSED = (
    ("model.mm_projector.upsampler.model.0.*", "a second copy of the vision tower that is never run"),
    ("model.mm_projector.upsampler.model.1.norm.*", "a channel norm that is never run"),
    ("model.mm_projector.upsampler.upsampler.fixup_proj.*", "the three-step stack never runs it"),
    ("model.mm_projector.query", "only the numbered query sets are read"),
    ("model.mm_projector.kv_proj.weight", "every level has its own projection"),
    ("model.mm_projector.features_[1248]x_projector.*", "its level is outside `feature_scale_mask`"),
    ("model.mm_projector.feature_[1248]x_embedding", "its level is outside `feature_scale_mask`"),
    ("model.vision_tower.*.position_ids", "a buffer that is computed"),
    ("model.*.rotary_emb.inv_freq", "a buffer that is computed"),
    ("lm_head.weight", "tied to the input embeddings"),
)

# How an export fills released tensors that are never used: name, shape in letters (q queries, d width of the text
# model, c of the tower), how the released code initialises it. The copy of the tower is copied from the tower.
TOWER_COPY = ("model.mm_projector.upsampler.model.0.vision_tower.vision_model.", "model.visual.vision_tower.")
UNUSED_FILLED = (
    ("query", "qd", "normal"),
    ("kv_proj.weight", "dc", "normal"),
    ("upsampler.model.1.norm.weight", "c", "ones"),
    ("upsampler.model.1.norm.bias", "c", "zeros"),
)
UNUSED_LEVEL_FILLED = (
    ("features_{}x_projector.weight", "dc", "normal"),
    ("features_{}x_projector.bias", "d", "zeros"),
    ("feature_{}x_embedding", "11d", "zeros"),
)
NUM_RELEASED_LEVELS = 4


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


class TensorMismatchError(ValueError):
    """Raised where tensors do not fit a model; the message lists all problems, one a line.

    Args:
        summary: first line of the message, without its full stop.
        problems: what is missing, unknown or of the wrong shape.
    """

    def __init__(self, summary: str, problems: Sequence[str]):
        super().__init__(f"{summary}, {len(problems)} problem(s):\n" + "\n".join(problems))


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


def build_rules(names: Iterable[str], projector: LlavaUhdV2ProjectorConfig) -> list[Rule]:
    """Returns all rules for a model whose state dict has these names and whose projector has this configuration."""
    return [*_prefix_rules(names), *_attention_rules(projector), *_upsampler_rules(projector)]


def _prefix_rules(names: Iterable[str]) -> list[Rule]:
    return [
        Rule((released + name.removeprefix(ours),), (name,))
        for name in names
        for released, ours in PREFIXES
        if name.startswith(ours)
    ]


def _module_rules(released: str, ours: str) -> list[Rule]:
    return [Rule((f"{released}.{part}",), (f"{ours}.{part}",)) for part in ("weight", "bias")]


def _attention_rules(projector: LlavaUhdV2ProjectorConfig) -> list[Rule]:
    levels, sets = projector.levels, range(1, projector.num_query_sets + 1)
    rules = [
        Rule((f"{RELEASED_ATTENTION}pos_embed",), (f"{ATTENTION}position_embeddings",)),
        Rule((f"{RELEASED_ATTENTION}proj",), (f"{ATTENTION}projection.weight",), "transpose"),
        Rule(tuple(f"{RELEASED_ATTENTION}query_{i}" for i in sets), (f"{ATTENTION}queries",), "stack"),
        Rule(
            tuple(f"{RELEASED_ATTENTION}feature_{2**level}x_embedding" for level in levels),
            (f"{ATTENTION}level_embeddings",),
            "stack rows",
        ),
    ]
    for part in ("weight", "bias"):
        thirds = tuple(f"{ATTENTION}{name}.{part}" for name in ("query", "key", "value"))
        rules.append(Rule((f"{RELEASED_ATTENTION}attn.in_proj_{part}",), thirds, "split in thirds"))
    for released, ours in ATTENTION_MODULES:
        rules += _module_rules(RELEASED_ATTENTION + released, ATTENTION + ours)
    for level in levels:
        released = f"{RELEASED_ATTENTION}features_{2**level}x_projector"
        rules += _module_rules(released, f"{ATTENTION}level_projections.{level}")
    return rules


def _upsampler_rules(projector: LlavaUhdV2ProjectorConfig) -> list[Rule]:
    steps = max(projector.levels)
    rules = []
    for index in range(steps):
        released_stage, our_stage = f"{RELEASED_STAGES}up{index + 1}.", f"{UPSAMPLER}stages.{index}."
        for released, ours in STAGE_SCALARS:
            rules.append(Rule((released_stage + released,), (our_stage + ours,), "scalar to vector"))
        for released, ours in STAGE_MODULES:
            rules += _module_rules(released_stage + released, our_stage + ours)
    for level, name in FIXUPS[steps]:
        released, ours = f"{RELEASED_STAGES}{name}.1", f"{UPSAMPLER}fixups.{level}"
        rules.append(Rule((f"{released}.weight",), (f"{ours}.weight",), "convolution to linear"))
        rules.append(Rule((f"{released}.bias",), (f"{ours}.bias",)))
    return rules


def model_shapes(config: LlavaUhdV2Config) -> dict[str, list[int]]:
    """Returns name and shape of every tensor that a checkpoint of this configuration holds.

    Raises:
        ValueError: if no model can be built from it.
    """
    with config_errors("config.json"), torch.device("meta"):
        model = LlavaUhdV2ForConditionalGeneration(config)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes[OUTPUT_EMBEDDINGS]
    return shapes


def with_rows(shapes: Mapping[str, Sequence[int]], rows: int) -> dict[str, list[int]]:
    """Returns our shapes with another number of rows in the embeddings."""
    tables = {INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS} & shapes.keys()
    return {name: [rows, *shape[1:]] if name in tables else list(shape) for name, shape in shapes.items()}


def unused_fillings(config: LlavaUhdV2Config) -> dict[str, tuple[list[int], str]]:
    """Returns shape and filling ("normal", "zeros", "ones") of the released tensors that are never used, by name.

    The copy of the vision tower is not among them.
    """
    letters = {
        "1": 1,
        "q": math.prod(config.projector_config.query_grid),
        "d": config.text_config.hidden_size,
        "c": config.vision_config.hidden_size,
    }
    levels = set(range(NUM_RELEASED_LEVELS)) - set(config.projector_config.levels)
    filled = [*UNUSED_FILLED]
    for level in sorted(levels):
        filled += [(name.format(2**level), shape, filling) for name, shape, filling in UNUSED_LEVEL_FILLED]
    return {
        RELEASED_PROJECTOR + name: ([letters[letter] for letter in shape], filling) for name, shape, filling in filled
    }


@dataclass(frozen=True)
class WeightPlan:
    """How the tensors of one checkpoint are converted.

    Args:
        rules: the rule that makes each of our tensors, by our name.
        unused: why a released tensor is left out, by its name.
    """

    rules: dict[str, Rule]
    unused: dict[str, str]


def plan_weights(
    released_shapes: Mapping[str, Sequence[int]],
    our_shapes: Mapping[str, Sequence[int]],
    projector: LlavaUhdV2ProjectorConfig,
) -> WeightPlan:
    """Finds the rule for every tensor, and refuses a checkpoint that does not fit our model exactly.

    Args:
        released_shapes: shape of every tensor in the released checkpoint, by name.
        our_shapes: shape of every tensor that our model needs, by name.
        projector: configuration of our projector.

    Raises:
        TensorMismatchError: if a tensor is missing, unknown or of the wrong shape.
    """
    rules = build_rules(our_shapes, projector)
    by_our_name = {name: rule for rule in rules for name in rule.ours}
    problems = [f"no rule fills our `{name}`" for name in our_shapes if name not in by_our_name]
    problems += rule_problems(rules, released_shapes, our_shapes)
    taken = {name for rule in rules for name in rule.released}
    unused = {name: reason_to_leave_out(name) for name in released_shapes if name not in taken}
    problems += [f"unknown: `{name}` {list(released_shapes[name])}" for name, reason in unused.items() if not reason]
    if problems:
        raise TensorMismatchError(
            "The checkpoint's tensors do not fit the model that its config.json describes", problems
        )
    return WeightPlan(by_our_name, unused)


def rule_problems(
    rules: Iterable[Rule], released_shapes: Mapping[str, Sequence[int]], our_shapes: Mapping[str, Sequence[int]]
) -> list[str]:
    """Lists what is missing or of the wrong shape among the released tensors that the rules take, in words."""
    problems = []
    for rule in rules:
        ours = [torch.empty(tuple(our_shapes[name]), device="meta") for name in rule.ours]
        for name, expected in rule.to_released(ours).items():
            if name not in released_shapes:
                problems.append(f"missing: `{name}` {list(expected.shape)}")
            elif tuple(released_shapes[name]) != tuple(expected.shape):
                problems.append(
                    f"wrong shape: `{name}` is {list(released_shapes[name])}, must be {list(expected.shape)}"
                )
    return problems


def reason_to_leave_out(name: str) -> str:
    """Returns why a released tensor that no rule takes has no place in our model; empty if there is no reason."""
    return next((reason for pattern, reason in UNUSED if fnmatchcase(name, pattern)), "")
