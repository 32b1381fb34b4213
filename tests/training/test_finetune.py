# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning as a whole, with a tiny model: what it trains, what it writes, and what it refuses."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.training.evaluation import is_exact
from llava_uhd_v2_hf.training.parameter_groups import part_of, plan_parts
from llava_uhd_v2_hf.training.recipes import read_recipe, shipped_recipes
from llava_uhd_v2_hf.training.stage import read_stage
from llava_uhd_v2_hf.training.stages.finetune.recipe import FinetuneRecipe
from llava_uhd_v2_hf.training.stages.finetune.steps import describe_steps
from llava_uhd_v2_hf.utils import atomic
from tests.support.finetune_data import write_samples
from tests.support.finetune_runs import load, logged, make_recipe, train, trainer_of


ATTENTION = "model.visual.projector.window_attention."
TRAINED_IN_PRETRAIN = {"window_attention", "positions"}


# What a training writes


@pytest.fixture(scope="module")
def pretrained(tiny_checkpoint, samples, tmp_path_factory):
    """Read it, don't write to it."""
    output = tmp_path_factory.mktemp("pretrained") / "model"
    more = ["training.report_to=tensorboard", "training.save_steps=3"]
    assert train("pretrain", tiny_checkpoint, samples, output, *more) == output
    return output


def test_pre_training_changes_the_window_attention_alone(pretrained, tiny_checkpoint):
    before, after = load(tiny_checkpoint).state_dict(), load(pretrained).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {part_of(name) for name in changed} == TRAINED_IN_PRETRAIN
    assert {name for name in before if name.startswith(ATTENTION)} == changed


def test_checkpoints_of_pre_training_hold_what_is_trained(pretrained):
    names = load_file(pretrained / "checkpoint-3/model.safetensors").keys()
    assert {part_of(name) for name in names} == TRAINED_IN_PRETRAIN
    with pytest.raises(ValueError, match="Unrecognized model"):
        AutoModelForImageTextToText.from_pretrained(pretrained / "checkpoint-3")


def without_dtypes(values):
    """Loading a model writes its dtype into every sub-configuration."""
    if not isinstance(values, dict):
        return values
    return {key: without_dtypes(value) for key, value in values.items() if key != "dtype"}


def test_the_result_is_a_complete_checkpoint(pretrained, tiny_checkpoint):
    processor = AutoProcessor.from_pretrained(pretrained)
    assert processor.chat_template == AutoProcessor.from_pretrained(tiny_checkpoint).chat_template  # not the plain one
    assert processor.image_processor.max_slices == 1  # as in the training
    for name in ("config.json", "generation_config.json"):
        ours, theirs = (
            without_dtypes(json.loads((folder / name).read_text())) for folder in (pretrained, tiny_checkpoint)
        )
        assert ours == theirs
    files = {path.name for path in pretrained.iterdir()}
    assert {"README.md", "recipe.yaml", "losses.png", "runs", "model.safetensors"} <= files
    assert not any(name.startswith(".") for name in files)
    assert CliRunner().invoke(app, ["export", str(pretrained)]).exit_code == 0
    again = read_recipe(FinetuneRecipe, str(pretrained / "recipe.yaml"), stage=read_stage("pretrain"))
    assert again.training.output_dir == str(pretrained) and again.data.max_slices == 1


def test_the_card_has_the_facts_of_the_training(pretrained):
    card = (pretrained / "README.md").read_text()
    losses = list(logged(pretrained, 3).values())
    assert f"{sum(losses) / 3:.4f}" in card
    for fact in ("samples.json, 32 samples", "3, 8 samples", "window_attention (0.001), positions (0.001)", "CPU"):
        assert fact in card


def test_the_table_of_parts_is_printed(tiny_checkpoint, samples, tmp_path, capsys):
    train("pretrain", tiny_checkpoint, samples, tmp_path / "out", "training.max_steps=1")
    table = capsys.readouterr().out
    assert re.search(r"window_attention\s+[\d,]+\s+[\d,]+\s+0.001\s+0", table)
    assert re.search(r"language_model\s+[\d,]+\s+frozen", table)


def test_the_learning_rate_of_every_part_is_logged(tiny_checkpoint, samples, tmp_path):
    more = ["lora.r=2", "parts.vision_tower.train=false", "parts.language_model.learning_rate=2e-3"]
    more += ["training.warmup_steps=0", "training.lr_scheduler_type=linear", "training.save_steps=3"]
    output = train("sft", tiny_checkpoint, samples, tmp_path / "out", *more)
    for part, largest in (("window_attention", 1e-3), ("positions", 1e-3), ("language_model", 2e-3)):
        rates = logged(output, 3, f"learning_rate_{part}")
        assert rates == {step: pytest.approx(largest * (1 - (step - 1) / 3)) for step in (1, 2, 3)}
    assert not logged(output, 3, "learning_rate_vision_tower")


def test_the_dropouts_of_a_frozen_up_sampler_act_only_if_asked_to(tiny_checkpoint, samples, tmp_path):
    for switch, rate in (("true", 0.1), ("false", 0.0)):
        recipe = make_recipe("pretrain", tiny_checkpoint, samples, tmp_path / "out", f"upsampler_dropout={switch}")
        trainer = trainer_of(recipe, "pretrain")
        stage = trainer.model.model.visual.projector.upsampler.stages[0]
        assert stage.dropout.training and stage.dropout.p == rate


@pytest.mark.parametrize("given", [None, "eager"])
def test_the_attention_is_the_one_that_is_asked_for(given, tiny_checkpoint, samples, tmp_path):
    recipe = make_recipe("sft", tiny_checkpoint, samples, tmp_path / "out")
    recipe.attn_implementation = given
    config = trainer_of(recipe, "sft").model.config
    parts = (config.vision_config, config.text_config)
    assert {part._attn_implementation for part in parts} == {given or "sdpa"}


def test_mixed_precision_keeps_what_is_trained_in_full_precision(tiny_checkpoint, samples, tmp_path):
    recipe = make_recipe("pretrain", tiny_checkpoint, samples, tmp_path / "out")
    recipe.training.bf16 = True
    model = trainer_of(recipe, "pretrain").model
    dtypes = {(part_of(name), parameter.dtype) for name, parameter in model.named_parameters()}
    half = {("vision_tower", torch.bfloat16), ("language_model", torch.bfloat16)}
    projector = {"upsampler", "fixups", "window_attention", "positions"}
    assert dtypes == half | {(part, torch.float32) for part in projector}
    recipe = make_recipe("sft", tiny_checkpoint, samples, tmp_path / "out", "lora.r=2")
    recipe.training.bf16 = True
    model = trainer_of(recipe, "sft").model
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_it_trains_in_bfloat16(stage, tiny_checkpoint, samples, tmp_path):
    output = train(stage, tiny_checkpoint, samples, tmp_path / "out", "training.bf16=true", "training.save_steps=3")
    losses = list(logged(output, 3).values())
    assert len(losses) == 3 and all(0 < loss < 20 for loss in losses)
    assert {tensor.dtype for tensor in load_file(output / "model.safetensors").values()} == {torch.float32}


# Steps


def gradients(recipe, stage="sft"):
    """Loss and weights after one step."""
    trainer = trainer_of(recipe, stage)
    trainer.train()
    [loss] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return loss, {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def test_accumulated_batches_make_the_same_step(tiny_checkpoint, samples, tmp_path):
    """1 x 8 and 4 x 2 samples; answers differ in length, so a mean of means would be another number."""
    more = ["training.max_steps=1", "training.save_strategy=no", "training.optim=sgd", "training.max_grad_norm=0"]
    more += ["training.warmup_steps=0", "training.learning_rate=1.0"]
    results = [
        gradients(
            make_recipe(
                "sft",
                tiny_checkpoint,
                samples,
                tmp_path / size,
                *more,
                f"training.per_device_train_batch_size={size}",
            )
        )
        for size in ("8", "2")
    ]
    (loss, weights), (other_loss, other_weights) = results
    assert loss == pytest.approx(other_loss, rel=1e-5)
    before = load(tiny_checkpoint).state_dict()
    assert any(not torch.equal(weights[name], before[name]) for name in weights)
    for name in weights:
        torch.testing.assert_close(weights[name], other_weights[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("more", [[], ["lora.r=4"]], ids=["full", "lora"])
def test_smoothed_labels_are_those_of_the_next_token(more, tiny_checkpoint, samples, tmp_path):
    more = [*more, "training.label_smoothing_factor=0.3"]
    trainer = trainer_of(make_recipe("sft", tiny_checkpoint, samples, tmp_path / "out", *more), "sft")
    model, batch = trainer.model.eval(), trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[5]])
    predicted, labels = model(**batch).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    expected = cross_entropy(predicted, labels, label_smoothing=0.3)
    torch.testing.assert_close(trainer.compute_loss(model, batch), expected)


def test_steps_of_dropped_samples_have_no_loss(tiny_checkpoint, samples, tmp_path):
    more = ["data.max_length=8", "data.cut_images=drop", "training.save_steps=3"]
    output = train("sft", tiny_checkpoint, samples, tmp_path / "out", *more)
    assert logged(output, 3) == {1: 0, 2: 0, 3: 0}
    counts = logged(output, 3, "dropped_cut_images")  # a batch is read ahead
    assert all(8 * step <= counts[step] <= 8 * (step + 1) for step in (1, 2, 3))
    before, after = load(tiny_checkpoint).state_dict(), load(output).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_grouping_by_length_keeps_texts_and_images_apart(tiny_checkpoint, samples, tmp_path):
    records = json.loads(samples.read_text())
    text = [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "a"}]}] * 16
    mixed = samples.with_name("mixed.json")
    mixed.write_text(json.dumps(records[:16] + text))
    recipe = make_recipe(
        "sft", tiny_checkpoint, mixed, tmp_path / "out", "training.train_sampling_strategy=group_by_length"
    )
    batches = list(trainer_of(recipe, "sft").get_train_dataloader())
    assert sorted("pixel_values" in batch for batch in batches) == [False, False, True, True]
    assert all(len(batch["input_ids"]) == 8 for batch in batches)


def test_a_stream_trains_and_goes_on(tiny_checkpoint, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    records = json.loads(write_samples(tmp_path / "data", images=4).read_text())
    rows = [{**record, "image": str(tmp_path / "data" / record["image"])} for record in records]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    more = ["data.streaming=true", "training.save_steps=2", "training.max_steps=4"]
    train("pretrain", tiny_checkpoint, tmp_path / "rows.parquet", tmp_path / "a", *more)
    shutil.copytree(tmp_path / "a/checkpoint-2", tmp_path / "b/checkpoint-2")
    train("pretrain", tiny_checkpoint, tmp_path / "rows.parquet", tmp_path / "b", *more)
    assert logged(tmp_path / "a", 4) == logged(tmp_path / "b", 4)

    rows[0]["image"] = str(tmp_path / "gone.png")
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "gaps.parquet")
    output = train(
        "pretrain", tiny_checkpoint, tmp_path / "gaps.parquet", tmp_path / "c", *more, "data.missing_images=skip"
    )
    assert logged(output, 4, "dropped_missing_images")[4] >= 1


# Evaluation


@pytest.mark.parametrize("rule", [None, "released-sequential"])
def test_transparent_images_are_read_as_the_checkpoint_says(rule, tiny_checkpoint, tmp_path):
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    config = json.loads((model / "processor_config.json").read_text())
    config["image_processor"]["alpha"] = "white"
    (model / "processor_config.json").write_text(json.dumps(config))
    ink = Image.new("RGBA", (60, 40))
    ink.putalpha(Image.linear_gradient("L").resize((60, 40)))
    white = Image.new("RGBA", (60, 40), "white")
    white.alpha_composite(ink)
    rows = []
    for name, image in (("ink", ink), ("white", white.convert("RGB"))):
        image.save(tmp_path / f"textvqa_{name}.png")
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a boat"}]
        records = [{"image": f"textvqa_{name}.png", "conversations": turns}]
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
        recipe = make_recipe("sft", model, tmp_path / f"{name}.json", tmp_path / "out")
        recipe.data.pre_resize = rule
        trainer = trainer_of(recipe, "sft")
        rows.append(trainer.data_collator([trainer.train_dataset[0]])["pixel_values"])
    assert torch.equal(*rows)


def test_exact_match_is_logged_while_it_trains(tiny_checkpoint, samples, tmp_path):
    more = [f"evaluation.data.source={samples}", "evaluation.max_new_tokens=4", "evaluation.samples=6"]
    more += ["training.eval_strategy=steps", "training.eval_steps=2", "training.per_device_eval_batch_size=4"]
    output = train("sft", tiny_checkpoint, samples, tmp_path / "out", *more, "training.save_steps=3")
    assert logged(output, 3, "eval_exact_match") == {2: 0, 3: 0}  # three steps teach nothing
    assert "| exact match on samples.json after step 3 | 0.0000 |" in (output / "README.md").read_text()


def test_answers_in_parts_are_compared_too(tiny_checkpoint, samples, tmp_path):
    held_out = [
        {
            "messages": [
                {"role": "user", "content": record["conversations"][0]["value"]},
                {"role": "assistant", "content": [{"type": "text", "text": record["conversations"][1]["value"]}]},
            ],
            "images": [record["image"]],
        }
        for record in json.loads(samples.read_text())
        if "image" in record
    ]
    path = samples.with_name("in_parts.json")
    path.write_text(json.dumps(held_out))
    more = [f"evaluation.data.source={path}", "evaluation.max_new_tokens=4", "evaluation.samples=2"]
    output = train("sft", tiny_checkpoint, samples, tmp_path / "out", *more, "training.eval_strategy=epoch")
    assert (output / "config.json").is_file()


def test_answers_are_compared_without_case_and_space():
    assert is_exact(" Top left\n", "top LEFT")
    assert not is_exact("top left.", "top left")


# Bad input


def test_what_can_not_be_used_is_named_before_the_first_step(tiny_checkpoint, samples, tmp_path):
    out, tower = tmp_path / "out", tmp_path / "tower"
    load(tiny_checkpoint).model.visual.vision_tower.save_pretrained(tower)
    with pytest.raises(ValueError, match="unknown key `parts.vision_towr`; did you mean `parts.vision_tower`"):
        train("sft", tiny_checkpoint, samples, out, "parts.vision_towr.train=true")
    records = json.loads(samples.read_text())
    records[2]["image"] = "nowhere.png"
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(json.dumps(record) for record in records))
    shutil.copytree(samples.parent, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"lines.jsonl:3, record 3 \(id 2\): `image`: there is no file .*nowhere.png"):
        train("sft", tiny_checkpoint, lines, out)
    nothing = [f"parts.{part}.train=false" for part in ("vision_tower", "window_attention", "positions")]
    with pytest.raises(ValueError, match="Nothing would be trained: set"):
        train("sft", tiny_checkpoint, samples, out, *nothing, "parts.language_model.train=false")
    with pytest.raises(ValueError, match="There is no folder .*no-model"):
        train("sft", tmp_path / "no-model", samples, out)
    with pytest.raises(ValueError, match="holds a model of type `clip_vision_model`"):
        train("sft", tower, samples, out)
    with pytest.raises(ValueError, match="`quantization` needs `lora`"):
        make_recipe("sft", tiny_checkpoint, samples, out, "quantization.type=nf4")
    with pytest.raises(ValueError, match="`data.streaming`=true needs `training.max_steps`"):
        make_recipe("sft", tiny_checkpoint, samples, out, "data.streaming=true", "training.max_steps=-1")
    with pytest.raises(ValueError, match="can't be grouped by length; set `training.train_sampling_strategy`=random"):
        more = ["data.streaming=true", "training.train_sampling_strategy=group_by_length"]
        make_recipe("sft", tiny_checkpoint, samples, out, *more)
    with pytest.raises(ValueError, match="The section `evaluation` needs `training.eval_strategy`"):
        make_recipe("sft", tiny_checkpoint, samples, out, f"evaluation.data.source={samples}")
    with pytest.raises(ValueError, match="32 samples / batch 64 = 1 step, of which 1 is warm-up: it would change"):
        few = ["batch_size=64", "training.max_steps=-1", "training.num_train_epochs=1", "training.warmup_steps=0.03"]
        train("sft", tiny_checkpoint, samples, out, *few)
    with pytest.raises(ValueError, match="'steps' needs the section `evaluation`"):
        make_recipe("sft", tiny_checkpoint, samples, out, "training.eval_strategy=steps", "training.eval_steps=1")
    with pytest.raises(ValueError, match="`parts.language_model.learning_rate` must be at least 0, got -1.0"):
        train("sft", tiny_checkpoint, samples, out, "parts.language_model.learning_rate=-1")
    assert not out.exists()


def test_another_recipe_or_model_does_not_go_on(pretrained, tiny_checkpoint, samples, tmp_path):
    shutil.copytree(pretrained, tmp_path / "out")
    more = ["training.report_to=tensorboard", "training.save_steps=3"]
    with pytest.raises(ValueError, match=r"another recipe \(training.learning_rate differ\)"):
        train("pretrain", tiny_checkpoint, samples, pretrained, *more, "training.learning_rate=0.1")
    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    with pytest.raises(ValueError, match=r"another recipe \(model, data differ\)"):
        train("pretrain", other, samples, pretrained, *more, "data.max_length=99")


def test_a_result_without_checkpoints_is_not_overwritten_by_another_recipe(
    pretrained, tiny_checkpoint, samples, tmp_path
):
    done = shutil.copytree(pretrained, tmp_path / "done", ignore=shutil.ignore_patterns("checkpoint-*"))
    before = {path.name: path.stat().st_mtime_ns for path in done.iterdir()}
    more = ["training.report_to=tensorboard", "training.save_steps=3", "training.learning_rate=0.1"]
    with pytest.raises(ValueError, match=r"another recipe \(training.learning_rate differ\)"):
        train("pretrain", tiny_checkpoint, samples, done, *more)
    assert {path.name: path.stat().st_mtime_ns for path in done.iterdir()} == before


@pytest.mark.parametrize(
    ("settings", "samples", "line"),
    [
        ([], 30, "30 samples / batch 16 = 2 steps, of which 1 is warm-up: lower `batch_size` or raise"),
        (["num_train_epochs=5"], 30, "/ batch 16 = 2 steps an epoch; 10 steps, of which 1 is warm-up: lower `batch_"),
        (["num_train_epochs=30"], 30, "/ batch 16 = 2 steps an epoch; 60 steps, of which 2 are warm-up."),
        (["max_steps=3"], 30, "2 steps an epoch; 3 steps, of which 1 is warm-up: raise `training.max_steps`"),
        (["max_steps=100"], None, "A stream in batches of 16: 100 steps, of which 3 are warm-up."),
        (["max_steps=1"], None, "1 step, of which 1 is warm-up: raise `training.max_steps`"),
        (["lr_scheduler_type=constant"], 30, "= 2 steps, of which 0 are warm-up."),
        (["warmup_steps=99", "max_steps=99"], 30, "99 steps, of which 99 are warm-up: raise `training.max_steps`"),
    ],
)
def test_few_steps_are_told_with_what_to_change(settings, samples, line):
    settings = [f"training.{setting}" for setting in [*settings, "report_to=none"]]
    recipe = read_recipe(FinetuneRecipe, "sft-lora", settings, stage=read_stage("sft"))
    assert line in describe_steps(recipe.training, recipe.batch_size, samples)


def test_a_disk_that_is_too_small_is_named_in_time(tiny_checkpoint, samples, tmp_path, caplog, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    output = train("pretrain", tiny_checkpoint, samples, tmp_path / "out", "training.save_steps=2")
    warnings = [record.message for record in caplog.records if "The next checkpoint needs about" in record.message]
    assert len(warnings) == 2  # before the first step and after the first checkpoint, not after the last
    assert (output / "model.safetensors").exists()


# section 7 of what the released code computes: batch, learning rate, longest sample, positions and fix-up trained
RELEASED = {
    "pretrain-vicuna-7b": (256, 1e-3, 3072, True, False),
    "pretrain-vicuna-13b": (256, 2e-4, 4096, True, False),
    "pretrain-qwen2-7b": (256, 2e-4, 4096, True, False),
    "sft-vicuna-7b": (128, 2e-5, 4096, False, True),
    "sft-vicuna-13b": (128, 2e-5, 4096, True, True),
    "sft-qwen2-7b": (128, 2e-5, 4096, True, True),
}


SLICES = {"sft-paper": 6, "sft-lora": None, "sft-qlora": None}  # None: the processor's


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_the_shipped_recipes(stage):
    names = shipped_recipes(stage)
    assert names.keys() - RELEASED.keys() == ({"sft-paper", "sft-lora", "sft-qlora"} if stage == "sft" else set())
    for name in names:
        recipe = read_recipe(FinetuneRecipe, name, ["training.bf16=false"], stage=read_stage(stage))
        args, data, plan = recipe.training, recipe.data, plan_parts(recipe.parts, recipe.training)
        assert args.output_dir == name
        assert (args.warmup_steps, args.weight_decay, args.lr_scheduler_type) == (0.03, 0, "cosine")
        assert "window_attention" in plan and "upsampler" not in plan
        assert ("vision_tower" in plan, "language_model" in plan) == (
            stage == "sft" and "lora" not in name,
            stage == "sft",
        )
        assert data.max_slices == (1 if stage == "pretrain" else SLICES.get(name, 7))
        assert data.label_rule == ("released-chatml" if "qwen2" in name else "template")
        if name in RELEASED:
            facts = recipe.batch_size, args.learning_rate, data.max_length, "positions" in plan, "fixups" in plan
            assert facts == RELEASED[name]
            assert recipe.upsampler_dropout
