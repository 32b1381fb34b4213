# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Recipes are read strictly: types, unknown keys, overrides."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from llava_uhd_v2_hf.training.recipes import read_recipe, shipped_recipes
from llava_uhd_v2_hf.training.stage import read_stage
from llava_uhd_v2_hf.training.stages.vdim.recipe import VdimRecipe


@dataclass
class Oven:
    temperature: float = 180.0
    rack: Literal["top", "middle"] = "middle"
    minutes: int | None = None


@dataclass
class Cake:
    name: str = "plain"
    layers: int = 1
    iced: bool = False
    oven: Oven = field(default_factory=Oven)


@pytest.fixture
def read(tmp_path):
    def read_text(text, *overrides):
        path = tmp_path / "cake.yaml"
        path.write_text(text)
        return read_recipe(Cake, str(path), overrides, stage=read_stage("vdim"))

    return read_text


def test_sections_become_dataclasses_and_overrides_win(read):
    cake = read("name: no\noven:\n  temperature: 2e2\n  minutes: 40\n", "layers=3", "oven.minutes=null", "iced=true")
    assert cake == Cake("no", 3, True, Oven(200.0, "middle", None))
    assert isinstance(cake.oven.temperature, float)
    assert read("layers: 2", "oven.rack=top", "oven.temperature=1e2") == Cake(layers=2, oven=Oven(100.0, "top"))


@pytest.mark.parametrize(
    "text, overrides, message",
    [
        ("layer: 2", [], "unknown key `layer`; did you mean `layers`"),
        ("layers: 1", ["oven.temprature=9"], "unknown key `oven.temprature`; did you mean `oven.temperature`"),
        ("layers: 1", ["minutes=9"], "unknown key `minutes`; did you mean `oven.minutes`"),
        ("layers: 1", ["oven.name=9"], "unknown key `oven.name`; did you mean `name`?"),
        ("layers: 1", ["qqqqqqq=9"], "known: name, layers, iced, oven"),
        ("layers: 1", ["oven.tint=9"], "known: oven.temperature, oven.rack, oven.minutes"),
        ("layers: two", [], "`layers`='two' can't be used; it must be int"),
        ("oven: {rack: bottom}", [], "`oven.rack`='bottom' can't be used; it must be 'top' or 'middle'"),
        ("oven: {minutes: 1.5}", [], "must be int or null"),
        ("layers: true", [], "must be int"),
        ("oven: hot", [], "`oven` is a section"),
        ("layers: 1", ["layers.top=1"], "`layers` is not a section"),
        ("layers: 1", ["layers"], "Expected `key=value`, got 'layers'"),
        ("layers: [1", [], "is not valid YAML"),
        ("- layers", [], "must be `key: value` lines"),
    ],
)
def test_what_does_not_fit_is_named(read, text, overrides, message):
    with pytest.raises(ValueError) as error:
        read(text, *overrides)
    assert message in str(error.value)


def test_an_unknown_recipe_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="one of vdim-clip-l-336-paper, vdim-clip-l-336-released"):
        read_recipe(VdimRecipe, "vdim-clip", stage=read_stage("vdim"))


def test_shipped_recipes_are_read():
    assert len(shipped_recipes("vdim")) == 2
    for name in shipped_recipes("vdim"):
        recipe = read_recipe(VdimRecipe, name, ["training.report_to=none"], stage=read_stage("vdim"))
        assert recipe.training.max_steps == 2000 and recipe.batch_size == 16
        assert recipe.training.learning_rate == 1e-3


def test_the_paper_s_recipe_is_the_plain_reconstruction():
    paper = read_recipe(VdimRecipe, "vdim-clip-l-336-paper", ["training.report_to=none"], stage=read_stage("vdim"))
    assert (paper.optimizer, paper.first_steps, paper.loss.jitters) == ("adam", 0, 1)
    assert not (paper.loss.crf_weight or paper.loss.uncertainty or paper.loss.projection_size)


@pytest.mark.parametrize(
    "setting, message",
    [
        ("loss.mask_rate=1", "`loss.mask_rate` must be in [0, 1)"),
        ("loss.jitters=0", "`loss.jitters` must be at least 1"),
        ("loss.max_pad=336", "`loss.max_pad`=336 must be smaller than `data.crop_size`=336"),
        ("batch_size=0", "`batch_size` must be at least 1"),
        ("data.max_unreadable=-1", "`data.max_unreadable` must be at least 0"),
        ("upsampler.steps=4", "`upsampler.steps`=4 can't be used; it must be 1 or 2 or 3"),
        ("training.max_steps=0", "`training.max_steps` must be at least 1"),
        ("training.max_step=5", "did you mean `training.max_steps`"),
        ("learning_rate=1", "did you mean `training.learning_rate`?"),
        ("training.outputdir=x", "did you mean `training.output_dir`?"),
        ("training.foo=1", "keys, none with a similar name"),
    ],
)
def test_values_out_of_range_are_named(setting, message):
    with pytest.raises(ValueError) as error:
        read_recipe(
            VdimRecipe, "vdim-clip-l-336-released", ["training.report_to=none", setting], stage=read_stage("vdim")
        )
    assert message in str(error.value)


def test_activation_checkpointing_has_its_old_name_in_every_version(recwarn):
    settings = ["training.report_to=none", "training.gradient_checkpointing=true"]
    args = read_recipe(VdimRecipe, "vdim-clip-l-336-released", settings, stage=read_stage("vdim")).training
    assert args.gradient_checkpointing and getattr(args, "activation_checkpointing", True)
    assert not [warning for warning in recwarn if "checkpointing" in str(warning.message)]
