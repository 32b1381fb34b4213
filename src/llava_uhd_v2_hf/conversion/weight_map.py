# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Which tensor of a released checkpoint becomes which tensor of ours.

A [`Rule`] names the released tensors, ours, and the operation between them. The names of the language model and of the
vision tower are those that our model has, under another prefix; projectors are in `projector_map`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from .config_checks import config_errors
from .projector_map import projector_rules, reason_of_projector
from .rules import Rule


INPUT_EMBEDDINGS = "model.language_model.embed_tokens.weight"
OUTPUT_EMBEDDINGS = "lm_head.weight"

# released prefix, our prefix
PREFIXES = (
    ("model.vision_tower.vision_tower.vision_model.", "model.visual.vision_tower."),
    ("model.", "model.language_model."),
    ("lm_head.", "lm_head."),
)

# Released tensors that have no place in our model, once the rules have taken theirs: pattern, reason.
UNUSED = (
    ("model.vision_tower.*.position_ids", "a buffer that is computed"),
    ("model.*.rotary_emb.inv_freq", "a buffer that is computed"),
    ("lm_head.weight", "tied to the input embeddings"),
)


class TensorMismatchError(ValueError):
    """Raised where tensors do not fit a model; the message lists all problems, one a line.

    Args:
        summary: first line of the message, without its full stop.
        problems: what is missing, unknown or of the wrong shape.
    """

    def __init__(self, summary: str, problems: Sequence[str]):
        super().__init__(f"{summary}, {len(problems)} problem(s):\n" + "\n".join(problems))


def build_rules(names: Iterable[str], projector: LlavaUhdV2ProjectorConfig) -> list[Rule]:
    """Returns all rules for a model whose state dict has these names and whose projector has this configuration."""
    known = set(names)
    of_projector = [rule for rule in projector_rules(projector) if known.issuperset(rule.ours)]
    return [*_prefix_rules(names), *of_projector]


def _prefix_rules(names: Iterable[str]) -> list[Rule]:
    return [
        Rule((released + name.removeprefix(ours),), (name,))
        for name in names
        for released, ours in PREFIXES
        if name.startswith(ours)
    ]


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
    unused = {name: reason_to_leave_out(name, projector) for name in released_shapes if name not in taken}
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


def reason_to_leave_out(name: str, projector: LlavaUhdV2ProjectorConfig) -> str:
    """Returns why a released tensor that no rule takes has no place in our model; empty if there is no reason."""
    reason = next((reason for pattern, reason in UNUSED if fnmatchcase(name, pattern)), "")
    return reason or reason_of_projector(name, projector)
