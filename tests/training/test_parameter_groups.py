# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Which parts of a model are trained, and how."""

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainingArguments
from transformers.trainer_pt_utils import get_parameter_names

from llava_uhd_v2_hf.training.parameter_groups import (
    Parts,
    PartSettings,
    apply_plan,
    describe_plan,
    optimizer_groups,
    part_of,
    parts_of_model,
    plan_parts,
)
from llava_uhd_v2_hf.training.recipes import read_recipe
from llava_uhd_v2_hf.training.stage import read_stage
from llava_uhd_v2_hf.training.stages.finetune.recipe import FinetuneRecipe
from tests.support.finetune_runs import load


ATTENTION = "model.visual.projector.window_attention."
TRAINED_IN_PRETRAIN = {"window_attention", "positions"}


def test_every_parameter_belongs_to_one_part(tiny_checkpoint):
    model = load(tiny_checkpoint)
    parts = {name: part_of(name) for name, _ in model.named_parameters()}
    assert set(parts.values()) == set(Parts.__dataclass_fields__) - {"projector"}  # of other types than this one
    assert {name for name, part in parts.items() if part == "positions"} == {ATTENTION + "position_embeddings"}
    assert {name for name, part in parts.items() if part == "fixups"} == {
        f"model.visual.projector.upsampler.fixups.1.{kind}" for kind in ("weight", "bias")
    }
    with pytest.raises(ValueError, match="`model.audio.weight` belongs to no part"):
        part_of("model.audio.weight")


def test_parts_are_found_in_models_of_peft(tiny_checkpoint):
    plain = {name: part_of(name) for name, _ in load(tiny_checkpoint).named_parameters()}
    config = LoraConfig(
        target_modules=r"model\.language_model.*q_proj|.*vision_tower.*v_proj",
        modules_to_save=["model.visual.projector.window_attention", "model.visual.projector.upsampler.fixups.1"],
    )
    model = get_peft_model(load(tiny_checkpoint), config)
    for name, _ in model.named_parameters():
        plainly = name.removeprefix("base_model.model.")
        for inserted in ("modules_to_save.default.", "original_module.", "base_layer."):
            plainly = plainly.replace(inserted, "")
        if ".lora_" in plainly:
            plainly = re.sub(r"lora_[AB]\.default\.", "", plainly)
        assert part_of(name) == plain[plainly], name


def plan_of(**parts):
    args = TrainingArguments(learning_rate=1e-3, weight_decay=0.1, report_to="none")
    off = {name: PartSettings(train=False) for name in Parts.__dataclass_fields__}
    return plan_parts(Parts(**off | parts), args)


def test_each_part_has_its_learning_rate_and_weight_decay(tiny_checkpoint):
    model = load(tiny_checkpoint)
    plan = plan_of(
        vision_tower=PartSettings(train=True, learning_rate=1e-5),
        language_model=PartSettings(train=True, weight_decay=0.5),
    )
    apply_plan(model, plan)
    decayed = get_parameter_names(model, [torch.nn.LayerNorm], ["bias", "norm"])
    groups = optimizer_groups(model, plan, decayed)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in groups.values()
        for parameter in group["params"]
    }
    assert found["model.language_model.layers.0.self_attn.q_proj.weight"] == (1e-3, 0.5)
    assert found["model.language_model.norm.weight"] == (1e-3, 0)
    assert found["model.visual.vision_tower.encoder.layers.0.mlp.fc1.weight"] == (1e-5, 0.1)
    assert found["model.visual.vision_tower.encoder.layers.0.mlp.fc1.bias"] == (1e-5, 0)
    assert not any("projector" in name or "post_layernorm" in name for name in found)
    assert not any("encoder.layers.1." in name for name in found)  # behind the hidden state that is read
    table = describe_plan(model, plan).splitlines()
    assert table[0].startswith("part") and table[-1].startswith("all")
    assert sorted(line.split()[0] for line in table[1:-1]) == sorted(set(map(part_of, names.values())))
    rows = {line.split()[0]: line.split()[1:] for line in table[1:]}
    assert rows["language_model"][2:] == ["0.001", "0.5"] and rows["window_attention"][1] == "frozen"


@pytest.mark.parametrize(
    ("stage", "parts"),
    [("pretrain", TRAINED_IN_PRETRAIN), ("sft", {"vision_tower", "window_attention", "language_model"})],
)
def test_a_stage_trains_its_parts_by_default(stage, parts, tiny_checkpoint, tmp_path):
    (tmp_path / "recipe.yaml").write_text("parts: {window_attention: {learning_rate: 1.0e-4}}")
    recipe = read_recipe(
        FinetuneRecipe, str(tmp_path / "recipe.yaml"), ["training.report_to=none"], stage=read_stage(stage)
    )
    plan = parts_of_model(load(tiny_checkpoint), plan_parts(recipe.parts, recipe.training))
    assert set(plan) == parts and plan["window_attention"].learning_rate == 1e-4


def test_lora_in_a_frozen_part_is_refused(tiny_checkpoint):
    model = get_peft_model(load(tiny_checkpoint), LoraConfig(target_modules=r".*vision_tower.*q_proj"))
    with pytest.raises(ValueError, match="vision_tower.*but `vision_tower` is not trained; set `parts.vision_tower"):
        apply_plan(model, plan_of(language_model=PartSettings(train=True)))


def test_a_part_that_an_adapter_would_not_save_is_refused(tiny_checkpoint):
    model = get_peft_model(load(tiny_checkpoint), LoraConfig(target_modules=r".*language_model.*q_proj"))
    plan = plan_of(language_model=PartSettings(train=True), window_attention=PartSettings(train=True))
    with pytest.raises(ValueError, match="no copy of window_attention.*trained but not saved"):
        apply_plan(model, plan)
