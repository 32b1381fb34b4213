# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Parameter groups: frozen or trained, learning rate, weight decay."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn
from transformers import TrainingArguments


# Part -> how the names of its parameters begin; the first that fits.
_PREFIXES = {
    "vision_tower": ("model.visual.vision_tower.",),
    "fixups": ("model.visual.projector.upsampler.fixups.",),
    "upsampler": ("model.visual.projector.upsampler.",),
    "positions": ("model.visual.projector.window_attention.position_embeddings",),
    "window_attention": ("model.visual.projector.window_attention.",),
    "projector": ("model.visual.projector.",),
    "language_model": ("model.language_model.", "lm_head."),
}
_OF_PEFT = re.compile(r"(?<=\.)(original_module|modules_to_save\.[^.]+|base_layer)\.")
_LORA = ".lora_"
_COPY = ".modules_to_save."
_ORIGINAL = ".original_module."


@dataclass
class PartSettings:
    """How one part of the model is trained.

    Args:
        train: whether it is trained; the default is the stage's.
        learning_rate: the largest one; None for `training.learning_rate`.
        weight_decay: None for `training.weight_decay`.
    """

    train: bool = False
    learning_rate: float | None = None
    weight_decay: float | None = None


@dataclass
class Parts:
    """The parts of the model; every parameter belongs to one of them.

    Args:
        vision_tower: up to the layer that is read; what lies behind is never trained.
        upsampler: visual detail injection, without its fix-ups.
        fixups: the 1x1 fix-ups of the up-sampler.
        window_attention: hierarchical window attention, without its position table.
        positions: the position table of the window attention.
        projector: a projector of another type than `"hiwin"`, without an up-sampler that it has as `upsampler`.
        language_model: with its embeddings and its head.
    """

    vision_tower: PartSettings = field(default_factory=PartSettings)
    upsampler: PartSettings = field(default_factory=PartSettings)
    fixups: PartSettings = field(default_factory=PartSettings)
    window_attention: PartSettings = field(default_factory=PartSettings)
    positions: PartSettings = field(default_factory=PartSettings)
    projector: PartSettings = field(default_factory=PartSettings)
    language_model: PartSettings = field(default_factory=PartSettings)


@dataclass(frozen=True)
class PartPlan:
    """How a part is trained.

    Attributes:
        learning_rate: the largest one.
        weight_decay: of its matrices; its biases and norms have none.
    """

    learning_rate: float
    weight_decay: float


def part_of(name: str) -> str:
    """The part that a parameter of [`LlavaUhdV2ForConditionalGeneration`] belongs to, also when PEFT has wrapped it.

    Raises:
        ValueError: if it belongs to none.
    """
    plain = _OF_PEFT.sub("", name.removeprefix("base_model.model."))
    for part, prefixes in _PREFIXES.items():
        if plain.startswith(prefixes):
            return part
    raise ValueError(f"The parameter `{name}` belongs to no part of the model: {', '.join(_PREFIXES)}.")


def plan_parts(parts: Parts, args: TrainingArguments) -> dict[str, PartPlan]:
    """Returns the parts that are trained, with their learning rates and weight decays.

    Args:
        parts: of the recipe; which are trained by default is the stage's (paper 4.1; released code), see [`Stage`].
        args: whose learning rate and weight decay are the default.

    Raises:
        ValueError: if no part is trained, or one has a learning rate or weight decay below zero.
    """
    plan = {}
    for part in fields(parts):
        settings = getattr(parts, part.name)
        if not settings.train:
            continue
        rates = {
            name: getattr(args, name) if getattr(settings, name) is None else getattr(settings, name)
            for name in ("learning_rate", "weight_decay")
        }
        for name, value in rates.items():
            if value < 0:
                raise ValueError(f"`parts.{part.name}.{name}` must be at least 0, got {value}.")
        plan[part.name] = PartPlan(**rates)
    if not plan:
        raise ValueError("Nothing would be trained: set `parts.window_attention.train`=true, or another part's.")
    return plan


def parts_of_model(model: nn.Module, plan: Mapping[str, PartPlan]) -> dict[str, PartPlan]:
    """Returns the plan of the parts that a model has: those of the projector depend on its type.

    Raises:
        ValueError: if it has none of them.
    """
    present = {part_of(name) for name, _ in model.named_parameters()}
    if not present.intersection(plan):
        known = ", ".join(part for part in _PREFIXES if part in present)
        raise ValueError(
            f"Nothing would be trained: set `parts.PART.train`=true for a part of the model ({known}); only "
            f"{', '.join(plan)} is to be trained now."
        )
    return {part: settings for part, settings in plan.items() if part in present}


def apply_plan(model: nn.Module, plan: Mapping[str, PartPlan]) -> None:
    """Switches gradients on for what is trained and off for all else; after PEFT, which does so too.

    Parts with LoRA are trained through it alone. Other parts of a model of PEFT are trained in the copies that its
    adapter saves. What is never read stays frozen.

    Raises:
        ValueError: if LoRA is in a part that is not trained, the adapter has no copy of one that is, or nothing is
            left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    adapted = {part_of(name): name for name in names if _LORA in name}
    for part, name in adapted.items():
        if part not in plan:
            raise ValueError(f"LoRA adapts `{name}`, but `{part}` is not trained; set `parts.{part}.train`=true.")
    copied = {part_of(name) for name in names if _COPY in name}
    missing = set(plan).intersection(map(part_of, names)) - set(adapted) - copied if adapted else set()
    if missing:
        raise ValueError(
            f"The adapter has no copy of {', '.join(sorted(missing))}, which would be trained but not saved; set "
            f"`parts.{min(missing)}.train`=false, or begin a new adapter."
        )
    for name, parameter in model.named_parameters():
        part = part_of(name)
        saved = _LORA in name if part in adapted else (_COPY in name or not adapted)
        parameter.requires_grad_(part in plan and saved)
    model.train()  # which freezes what is never read
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"Nothing would be trained: the model has no weights in {', '.join(plan)}.")


def trained_names(model: nn.Module) -> Iterator[str]:
    """The names of the parameters that are trained."""
    return (name for name, parameter in model.named_parameters() if parameter.requires_grad)


def describe_plan(model: nn.Module, plan: Mapping[str, PartPlan]) -> str:
    """A table: each part, its parameters, how many are trained, learning rate and weight decay."""
    total, trained = dict.fromkeys(_PREFIXES, 0), dict.fromkeys(_PREFIXES, 0)
    for name, parameter in model.named_parameters():
        if _ORIGINAL in name:
            continue
        part = part_of(name)
        total[part] += parameter.numel()
        trained[part] += parameter.numel() if parameter.requires_grad else 0
    rows = [("part", "parameters", "trained", "learning rate", "weight decay")]
    for part, count in total.items():
        if not count:
            continue
        rates = (f"{plan[part].learning_rate:g}", f"{plan[part].weight_decay:g}") if trained[part] else ("", "")
        rows.append((part, f"{count:,}", f"{trained[part]:,}" if trained[part] else "frozen", *rates))
    rows.append(("all", f"{sum(total.values()):,}", f"{sum(trained.values()):,}", "", ""))
    return "\n".join(f"{row[0]:<17}" + "".join(f"{cell:>16}" for cell in row[1:]).rstrip() for row in rows)


def optimizer_groups(
    model: nn.Module, plan: Mapping[str, PartPlan], decayed: Collection[str]
) -> dict[tuple[str, bool], dict[str, Any]]:
    """The trained parameters by part, with weight decay (True) and without.

    Args:
        model: after [`apply_plan`].
        plan: how each part is trained.
        decayed: names of the parameters with weight decay.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, decays = part_of(name), name in decayed
        settings = {"lr": plan[part].learning_rate, "weight_decay": plan[part].weight_decay if decays else 0.0}
        groups.setdefault((part, decays), {"params": [], **settings})["params"].append(parameter)
    return groups


__all__ = [
    "PartPlan",
    "PartSettings",
    "Parts",
    "apply_plan",
    "describe_plan",
    "optimizer_groups",
    "part_of",
    "parts_of_model",
    "plan_parts",
    "trained_names",
]
