# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A stage of training from outside the package: the YAML file of docs/training.md."""

import re
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.training.families import train
from llava_uhd_v2_hf.training.parameter_groups import part_of
from llava_uhd_v2_hf.training.stage import read_stage
from tests.support.finetune_runs import load, logged, settings
from tests.support.paths import ROOT


[STAGE] = re.findall(r"^```yaml\n(family:.*?)^```$", (ROOT / "docs/training.md").read_text(), re.M | re.S)
TRAINED = {"fixups", "positions"}
FOUR_STEPS = ["training.max_steps=4", "training.save_steps=2"]


@pytest.fixture
def write(tmp_path):
    def write_files(stage=STAGE, recipe="data: {max_length: 512}"):
        (tmp_path / "align.yaml").write_text(stage)
        (tmp_path / "faces.yaml").write_text(recipe)
        return str(tmp_path / "align.yaml"), str(tmp_path / "faces.yaml")

    return write_files


@pytest.fixture
def run(write, tiny_checkpoint, samples, tmp_path):
    """Trains by the stage; returns the folder."""

    def run_command(name, *more, stage=STAGE):
        arguments = [*write(stage), *settings(tiny_checkpoint, samples, tmp_path / name, *more)]
        result = CliRunner().invoke(app, ["train", *arguments])
        assert result.exit_code == 0, result.output
        return tmp_path / name

    return run_command


def test_it_trains_what_its_file_says_and_resumes(run, tiny_checkpoint, tmp_path):
    whole = run("whole", *FOUR_STEPS)
    before, after = load(tiny_checkpoint).state_dict(), load(whole).state_dict()
    assert {part_of(name) for name in before if not torch.equal(before[name], after[name])} == TRAINED

    saved = load_file(whole / "checkpoint-2/model.safetensors")
    assert {part_of(name) for name in saved} == TRAINED
    with pytest.raises(ValueError, match="Unrecognized model"):
        AutoModelForImageTextToText.from_pretrained(whole / "checkpoint-2")

    card = (whole / "README.md").read_text()
    assert "| stage | align |" in card and "| trained parts | fixups (0.001), positions (0.01) |" in card
    values = yaml.safe_load((whole / "recipe.yaml").read_text())
    assert (values["chat_template"], values["data"]["max_slices"], values["data"]["max_length"]) == ("plain", 1, 512)

    shutil.copytree(whole / "checkpoint-2", tmp_path / "resumed/checkpoint-2")
    resumed = run("resumed", *FOUR_STEPS)
    assert logged(resumed, 4) == logged(whole, 4)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_recipe_says_more_than_the_stage(run, tiny_checkpoint):
    output = run("out", "training.max_steps=2", "parts.positions.train=false", "parts.fixups.learning_rate=0.1")
    before, after = load(tiny_checkpoint).state_dict(), load(output).state_dict()
    assert {part_of(name) for name in before if not torch.equal(before[name], after[name])} == {"fixups"}
    assert "| trained parts | fixups (0.1) |" in (output / "README.md").read_text()


def test_checkpoints_are_models_where_the_stage_says_so(run):
    output = run("out", "training.max_steps=1", "training.save_steps=1", stage=STAGE.replace("trained", "model"))
    assert load(output / "checkpoint-1").config.model_type == "llava_uhd_v2"


def test_an_adapter_of_it_is_merged(run, tmp_path):
    stage = "{family: finetune, save: model, recipe: {parts: {language_model: {train: true}}, lora: {r: 2, alpha: 4}}}"
    adapter = run("adapter", "training.max_steps=2", stage=stage)
    assert (adapter / "adapter_config.json").exists() and "| stage | align |" in (adapter / "README.md").read_text()
    result = CliRunner().invoke(app, ["merge", str(adapter), str(tmp_path / "merged")])
    assert result.exit_code == 0, result.output
    assert load(tmp_path / "merged").config.model_type == "llava_uhd_v2"


def test_another_stage_in_the_folder_of_a_training_is_refused(run, write, tiny_checkpoint, samples, tmp_path):
    run("out", "training.max_steps=1")
    other = write(STAGE.replace("fixups", "window_attention"))
    with pytest.raises(ValueError, match=r"a training of another recipe \(parts differ\)"):
        train(*other, settings(tiny_checkpoint, samples, tmp_path / "out", "training.max_steps=1"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("family: finetune", r"align.yaml: the key 'save' is missing"),
        ("save: model", r"align.yaml: the key 'family' is missing"),
        (f"{STAGE}part: {{}}", r"align.yaml: unknown key `part`; known: family, save, recipe"),
        ("{family: sft, save: model}", r"`family`='sft' can't be used; it must be 'finetune' or 'vdim'"),
        ("{family: finetune, save: all}", r"`save`='all' can't be used; it must be 'model' or 'trained'"),
        ("{family: vdim, save: model}", r"`save`='model' can't be used with `family`='vdim'; it must be 'trained'"),
        (STAGE.replace("fixups", "fixup"), r"`recipe` of the stage align: unknown key `parts.fixup`; did you mean"),
        (
            STAGE.replace("max_slices: 1", "max_slices: one"),
            r"of the stage align: `data.max_slices`='one' can't be used",
        ),
        ("- family", "align.yaml: the file must be `key: value` lines"),
        ("family: [", "align.yaml is not valid YAML"),
    ],
)
def test_a_file_that_does_not_fit_is_named(write, text, message):
    with pytest.raises(ValueError, match=message):
        train(*write(text))


def test_an_unknown_stage_is_answered_with_those_there_are(write):
    with pytest.raises(
        ValueError, match="There is no stage file allign; give a YAML file, or one of pretrain, sft, vdim"
    ):
        read_stage("allign")
    result = CliRunner().invoke(app, ["train", "allign", write()[1]])
    assert result.exit_code == 1 and "one of pretrain, sft, vdim" in result.stderr
