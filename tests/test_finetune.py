# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning as a whole, with a tiny model: what it trains, what it writes, what it survives, what it refuses."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import sharded_steps
import torch
from conftest import GOLDEN, ROOT
from finetune_data import CHANCE, permute_images, write_checkpoint, write_samples
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaForCausalLM, TrainingArguments
from transformers.trainer_pt_utils import get_parameter_names
from typer.testing import CliRunner

from llava_uhd_v2_hf import projector_llava_uhd_v2 as projector_module
from llava_uhd_v2_hf.cli import app
from llava_uhd_v2_hf.configuration_llava_uhd_v2 import LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.training import disk_space
from llava_uhd_v2_hf.training.adapters import merge_adapter
from llava_uhd_v2_hf.training.answers import generate_answers, is_exact
from llava_uhd_v2_hf.training.conversation_data import ConversationDataset
from llava_uhd_v2_hf.training.data_recipe import ConversationData
from llava_uhd_v2_hf.training.finetune import build_trainer, finetune, open_data, prepare_arguments
from llava_uhd_v2_hf.training.finetune_recipe import FinetuneParts, FinetuneRecipe, PartSettings
from llava_uhd_v2_hf.training.parts import apply_plan, describe_plan, optimizer_groups, part_of, plan_parts
from llava_uhd_v2_hf.training.recipe import read_recipe, shipped_recipes
from llava_uhd_v2_hf.training.vdim_file import VdimFacts, save_vdim
from llava_uhd_v2_hf.vdim_llava_uhd_v2 import LlavaUhdV2Upsampler


COMMAND = [sys.executable, "-c", "from llava_uhd_v2_hf.cli import app; app()", "train"]
ATTENTION = "model.visual.projector.window_attention."
TRAINED_IN_PRETRAIN = {"window_attention", "positions"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("base") / "model", width=32)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """32 samples of 8 images."""
    return write_samples(tmp_path_factory.mktemp("data") / "samples", images=8)


def settings(model, source, output, *more):
    return [
        f"model={model}",
        "batch_size=8",
        f"data.source={source}",
        "data.images=null",
        f"training.output_dir={output}",
        "training.max_steps=3",
        "training.learning_rate=1e-3",
        "training.per_device_train_batch_size=8",
        "training.logging_steps=1",
        "training.dataloader_num_workers=0",
        "training.report_to=none",
        "training.disable_tqdm=true",
        "training.use_cpu=true",
        "training.bf16=false",
        *more,
    ]


ACCELERATE = ROOT / "src/llava_uhd_v2_hf/training/accelerate"
RECIPES = {"pretrain": "pretrain-vicuna-7b", "sft": "sft-paper"}
PLAIN = ("data.pre_resize=null",)


def make_recipe(stage, *arguments):
    return read_recipe(FinetuneRecipe, RECIPES[stage], [*settings(*arguments), *PLAIN], stage=stage)


def train(stage, *arguments):
    return finetune(make_recipe(stage, *arguments), stage)


def logged(output, step, name="loss"):
    history = json.loads((output / f"checkpoint-{step}/trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry[name] for entry in history if name in entry}


def load(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def dataset_of(source):
    return ConversationDataset(ConversationData(source=str(source)))


def answers_of(model, processor, source, batch_size=16):
    dataset, answers = dataset_of(source), []
    for start in range(0, len(dataset), batch_size):
        batch = [dataset[number] for number in range(start, min(start + batch_size, len(dataset)))]
        answers += generate_answers(model, processor, batch, max_new_tokens=12)
    return answers


def exact_match(answers, source):
    expected = [record["conversations"][-1]["value"] for record in json.loads(source.read_text())]
    return sum(map(is_exact, answers, expected)) / len(expected)


# Parts


def test_every_parameter_belongs_to_one_part(checkpoint):
    model = load(checkpoint)
    parts = {name: part_of(name) for name, _ in model.named_parameters()}
    assert set(parts.values()) == set(FinetuneParts.__dataclass_fields__)
    assert {name for name, part in parts.items() if part == "positions"} == {ATTENTION + "position_embeddings"}
    assert {name for name, part in parts.items() if part == "fixups"} == {
        f"model.visual.projector.upsampler.fixups.1.{kind}" for kind in ("weight", "bias")
    }
    with pytest.raises(ValueError, match="`model.audio.weight` belongs to no part"):
        part_of("model.audio.weight")


def test_parts_are_found_in_models_of_peft(checkpoint):
    plain = {name: part_of(name) for name, _ in load(checkpoint).named_parameters()}
    config = LoraConfig(
        target_modules=r"model\.language_model.*q_proj|.*vision_tower.*v_proj",
        modules_to_save=["model.visual.projector.window_attention", "model.visual.projector.upsampler.fixups.1"],
    )
    model = get_peft_model(load(checkpoint), config)
    for name, _ in model.named_parameters():
        plainly = name.removeprefix("base_model.model.")
        for inserted in ("modules_to_save.default.", "original_module.", "base_layer."):
            plainly = plainly.replace(inserted, "")
        if ".lora_" in plainly:
            plainly = re.sub(r"lora_[AB]\.default\.", "", plainly)
        assert part_of(name) == plain[plainly], name


def plan_of(**parts):
    args = TrainingArguments(learning_rate=1e-3, weight_decay=0.1, report_to="none")
    off = {name: PartSettings(train=False) for name in FinetuneParts.__dataclass_fields__}
    return plan_parts(FinetuneParts(**off | parts), "sft", args)


def test_each_part_has_its_learning_rate_and_weight_decay(checkpoint):
    model = load(checkpoint)
    plan = plan_of(
        vision_tower=PartSettings(train=True, learning_rate=1e-5),
        language_model=PartSettings(train=True, weight_decay=0.5),
    )
    apply_plan(model, plan)
    decayed = get_parameter_names(model, [torch.nn.LayerNorm], ["bias", "norm"])
    groups = optimizer_groups(model, plan, decayed)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]
    }
    assert found["model.language_model.layers.0.self_attn.q_proj.weight"] == (1e-3, 0.5)
    assert found["model.language_model.norm.weight"] == (1e-3, 0)
    assert found["model.visual.vision_tower.encoder.layers.0.mlp.fc1.weight"] == (1e-5, 0.1)
    assert found["model.visual.vision_tower.encoder.layers.0.mlp.fc1.bias"] == (1e-5, 0)
    assert not any("projector" in name or "post_layernorm" in name for name in found)
    assert not any("encoder.layers.1." in name for name in found)  # behind the hidden state that is read
    table = describe_plan(model, plan).splitlines()
    assert [line.split()[0] for line in table] == [
        "part",
        *dict.fromkeys(map(part_of, names.values())),
        "all",
    ] or table
    rows = {line.split()[0]: line.split()[1:] for line in table[1:]}
    assert rows["language_model"][2:] == ["0.001", "0.5"] and rows["window_attention"][1] == "frozen"


def test_a_stage_trains_its_parts_by_default():
    args = TrainingArguments(report_to="none")
    assert set(plan_parts(FinetuneParts(), "pretrain", args)) == TRAINED_IN_PRETRAIN
    assert set(plan_parts(FinetuneParts(), "sft", args)) == {"vision_tower", "window_attention", "language_model"}


def test_lora_in_a_frozen_part_is_refused(checkpoint):
    model = get_peft_model(load(checkpoint), LoraConfig(target_modules=r".*vision_tower.*q_proj"))
    with pytest.raises(ValueError, match="vision_tower.*but `vision_tower` is not trained; set `parts.vision_tower"):
        apply_plan(model, plan_of(language_model=PartSettings(train=True)))


def test_a_part_that_an_adapter_would_not_save_is_refused(checkpoint):
    model = get_peft_model(load(checkpoint), LoraConfig(target_modules=r".*language_model.*q_proj"))
    plan = plan_of(language_model=PartSettings(train=True), window_attention=PartSettings(train=True))
    with pytest.raises(ValueError, match="no copy of window_attention.*trained but not saved"):
        apply_plan(model, plan)


# What a training writes


@pytest.fixture(scope="module")
def pretrained(checkpoint, samples, tmp_path_factory):
    """Read it, don't write to it."""
    output = tmp_path_factory.mktemp("pretrained") / "model"
    more = ["training.report_to=tensorboard", "training.save_steps=3"]
    assert train("pretrain", checkpoint, samples, output, *more) == output
    return output


def test_pre_training_changes_the_window_attention_alone(pretrained, checkpoint):
    before, after = load(checkpoint).state_dict(), load(pretrained).state_dict()
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


def test_the_result_is_a_complete_checkpoint(pretrained, checkpoint):
    processor = AutoProcessor.from_pretrained(pretrained)
    assert processor.chat_template == AutoProcessor.from_pretrained(checkpoint).chat_template  # not the plain one
    for name in ("config.json", "generation_config.json"):
        ours, theirs = (without_dtypes(json.loads((folder / name).read_text())) for folder in (pretrained, checkpoint))
        assert ours == theirs
    files = {path.name for path in pretrained.iterdir()}
    assert {"README.md", "recipe.yaml", "losses.png", "runs", "model.safetensors"} <= files
    assert not any(name.startswith(".") for name in files)
    assert CliRunner().invoke(app, ["export", str(pretrained)]).exit_code == 0
    again = read_recipe(FinetuneRecipe, str(pretrained / "recipe.yaml"), stage="pretrain")
    assert again.training.output_dir == str(pretrained) and again.data.max_slices == 1


def test_the_card_has_the_facts_of_the_training(pretrained):
    card = (pretrained / "README.md").read_text()
    losses = list(logged(pretrained, 3).values())
    assert f"{sum(losses) / 3:.4f}" in card
    for fact in ("samples.json, 32 samples", "3, 8 samples", "window_attention (0.001), positions (0.001)", "CPU"):
        assert fact in card


def test_the_table_of_parts_is_printed(checkpoint, samples, tmp_path, capsys):
    train("pretrain", checkpoint, samples, tmp_path / "out", "training.max_steps=1")
    table = capsys.readouterr().out
    assert re.search(r"window_attention\s+[\d,]+\s+[\d,]+\s+0.001\s+0", table)
    assert re.search(r"language_model\s+[\d,]+\s+frozen", table)


def test_the_dropouts_of_a_frozen_up_sampler_act_only_if_asked_to(checkpoint, samples, tmp_path):
    for switch, rate in (("true", 0.1), ("false", 0.0)):
        recipe = make_recipe("pretrain", checkpoint, samples, tmp_path / "out", f"upsampler_dropout={switch}")
        trainer = trainer_of(recipe, "pretrain")
        stage = trainer.model.model.visual.projector.upsampler.stages[0]
        assert stage.dropout.training and stage.dropout.p == rate


def trainer_of(recipe, stage):
    args = prepare_arguments(recipe)
    plan = plan_parts(recipe.parts, stage, args)
    return build_trainer(recipe, stage, args, plan, open_data(recipe, args, None))


def test_mixed_precision_keeps_what_is_trained_in_full_precision(checkpoint, samples, tmp_path):
    recipe = make_recipe("pretrain", checkpoint, samples, tmp_path / "out")
    recipe.training.bf16 = True
    model = trainer_of(recipe, "pretrain").model
    dtypes = {(part_of(name), parameter.dtype) for name, parameter in model.named_parameters()}
    half = {("vision_tower", torch.bfloat16), ("language_model", torch.bfloat16)}
    projector = {"upsampler", "fixups", "window_attention", "positions"}
    assert dtypes == half | {(part, torch.float32) for part in projector}
    recipe = make_recipe("sft", checkpoint, samples, tmp_path / "out", "lora.r=2")
    recipe.training.bf16 = True
    model = trainer_of(recipe, "sft").model
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert model.get_output_embeddings().weight.dtype == torch.bfloat16


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_it_trains_in_bfloat16(stage, checkpoint, samples, tmp_path):
    output = train(stage, checkpoint, samples, tmp_path / "out", "training.bf16=true", "training.save_steps=3")
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


def test_accumulated_batches_make_the_same_step(checkpoint, samples, tmp_path):
    """1 x 8 and 4 x 2 samples; answers differ in length, so a mean of means would be another number."""
    more = ["training.max_steps=1", "training.save_strategy=no", "training.optim=sgd", "training.max_grad_norm=0"]
    more += ["training.warmup_steps=0", "training.learning_rate=1.0"]
    results = [
        gradients(
            make_recipe(
                "sft", checkpoint, samples, tmp_path / size, *more, f"training.per_device_train_batch_size={size}"
            )
        )
        for size in ("8", "2")
    ]
    (loss, weights), (other_loss, other_weights) = results
    assert loss == pytest.approx(other_loss, rel=1e-5)
    before = load(checkpoint).state_dict()
    assert any(not torch.equal(weights[name], before[name]) for name in weights)
    for name in weights:
        torch.testing.assert_close(weights[name], other_weights[name], rtol=1e-5, atol=1e-5)


def test_steps_of_dropped_samples_have_no_loss(checkpoint, samples, tmp_path):
    more = ["data.max_length=8", "data.cut_images=drop", "training.save_steps=3"]
    output = train("sft", checkpoint, samples, tmp_path / "out", *more)
    assert logged(output, 3) == {1: 0, 2: 0, 3: 0}
    counts = logged(output, 3, "dropped_cut_images")  # a batch is read ahead
    assert all(8 * step <= counts[step] <= 8 * (step + 1) for step in (1, 2, 3))
    before, after = load(checkpoint).state_dict(), load(output).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_grouping_by_length_keeps_texts_and_images_apart(checkpoint, samples, tmp_path):
    records = json.loads(samples.read_text())
    text = [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "a"}]}] * 16
    mixed = samples.with_name("mixed.json")
    mixed.write_text(json.dumps(records[:16] + text))
    recipe = make_recipe(
        "sft", checkpoint, mixed, tmp_path / "out", "training.train_sampling_strategy=group_by_length"
    )
    batches = list(trainer_of(recipe, "sft").get_train_dataloader())
    assert sorted("pixel_values" in batch for batch in batches) == [False, False, True, True]
    assert all(len(batch["input_ids"]) == 8 for batch in batches)


def test_a_stream_trains_and_goes_on(checkpoint, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    records = json.loads(write_samples(tmp_path / "data", images=4).read_text())
    rows = [{**record, "image": str(tmp_path / "data" / record["image"])} for record in records]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    more = ["data.streaming=true", "training.save_steps=2", "training.max_steps=4"]
    train("pretrain", checkpoint, tmp_path / "rows.parquet", tmp_path / "a", *more)
    shutil.copytree(tmp_path / "a/checkpoint-2", tmp_path / "b/checkpoint-2")
    train("pretrain", checkpoint, tmp_path / "rows.parquet", tmp_path / "b", *more)
    assert logged(tmp_path / "a", 4) == logged(tmp_path / "b", 4)


# Evaluation


def test_exact_match_is_logged_while_it_trains(checkpoint, samples, tmp_path):
    more = [f"evaluation.data.source={samples}", "evaluation.max_new_tokens=4", "evaluation.samples=6"]
    more += ["training.eval_strategy=steps", "training.eval_steps=2", "training.per_device_eval_batch_size=4"]
    output = train("sft", checkpoint, samples, tmp_path / "out", *more, "training.save_steps=3")
    assert logged(output, 3, "eval_exact_match") == {2: 0, 3: 0}  # three steps teach nothing
    assert "| exact match on samples.json after step 3 | 0.0000 |" in (output / "README.md").read_text()


def test_answers_are_compared_without_case_and_space():
    assert is_exact(" Top left\n", "top LEFT")
    assert not is_exact("top left.", "top left")


# Learning: 64 images share four questions, so that the answer is in the image alone


LEARN = ["batch_size=16", "training.per_device_train_batch_size=16", "training.logging_steps=10"]
LEARN += ["training.gradient_checkpointing=false", "training.learning_rate=3e-3"]
STEPS = 600
SLOW_PARTS = ["parts.vision_tower.learning_rate=2e-4", "parts.window_attention.learning_rate=1e-3"]
SLOW_PARTS += [f"training.max_steps={STEPS}", f"training.save_steps={STEPS}"]
LORA = ["lora.r=32", "lora.alpha=64", "lora.dropout=0"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """64 images to learn from, and 32 others; four questions about each."""
    folder = tmp_path_factory.mktemp("pictures")
    return write_samples(folder / "training", images=64), write_samples(folder / "held-out", images=32, seed=1)


@pytest.fixture
def plain_order(monkeypatch):
    """Of the projector: faster at toy sizes."""
    monkeypatch.setattr(projector_module, "reordering_pays", lambda *_: False)


@pytest.fixture(scope="module")
def pretrained_on_pictures(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("learning")
    checkpoint = write_checkpoint(folder / "base", width=64)
    more = ["chat_template=null", "training.max_steps=20", "training.save_strategy=no"]
    return train("pretrain", checkpoint, pictures[0], folder / "pretrained", *LEARN, *more)


def assert_sees(model, processor, pictures):
    """The answers come from the images: right on these, at chance on others', and mostly right on new ones."""
    trained, held_out = pictures
    assert exact_match(answers_of(model, processor, trained), trained) == 1
    permuted = permute_images(trained)
    assert exact_match(answers_of(model, processor, permuted), permuted) == pytest.approx(CHANCE, abs=0.1)
    assert exact_match(answers_of(model, processor, held_out), held_out) >= 3 * CHANCE


@pytest.mark.slow
@pytest.mark.usefixtures("plain_order")
def test_a_model_learns_to_see(pretrained_on_pictures, pictures, tmp_path):
    output = train("sft", pretrained_on_pictures, pictures[0], tmp_path / "sft", *LEARN, *SLOW_PARTS)
    assert list(logged(output, STEPS).values())[-1] < 0.05
    assert_sees(load(output), AutoProcessor.from_pretrained(output), pictures)


@pytest.mark.slow
@pytest.mark.usefixtures("plain_order")
def test_an_adapter_learns_to_see_and_merged_it_answers_the_same(pretrained_on_pictures, pictures, tmp_path):
    output = train("sft", pretrained_on_pictures, pictures[0], tmp_path / "lora", *LEARN, *SLOW_PARTS, *LORA)
    assert list(logged(output, STEPS).values())[-1] < 0.05
    processor = AutoProcessor.from_pretrained(output)
    adapted = PeftModel.from_pretrained(load(pretrained_on_pictures), output)
    assert_sees(adapted, processor, pictures)
    result = CliRunner().invoke(app, ["merge", str(output), str(tmp_path / "merged")])
    assert result.exit_code == 0, result.output
    for source in pictures:
        assert answers_of(load(tmp_path / "merged"), processor, source) == answers_of(adapted, processor, source)


# Adapters


@pytest.fixture(scope="module")
def adapter(checkpoint, samples, tmp_path_factory):
    """Read it, don't write to it."""
    output = tmp_path_factory.mktemp("adapter") / "lora"
    more = ["lora.r=4", "parts.vision_tower.train=false", "parts.fixups.train=true", "training.save_steps=3"]
    return train("sft", checkpoint, samples, output, *more)


def test_an_adapter_folder_has_everything_that_was_trained(adapter):
    names = load_file(adapter / "adapter_model.safetensors").keys()
    low_rank = {name for name in names if ".lora_" in name}
    assert low_rank and all(".language_model.layers." in name for name in low_rank)
    leaves = {name.split(".lora_")[0].rpartition(".")[2] for name in low_rank}
    assert leaves == {f"{leaf}_proj" for leaf in ("q", "k", "v", "o", "gate", "up", "down")}
    assert {part_of(name) for name in names - low_rank} == {"window_attention", "positions", "fixups"}
    assert {"README.md", "recipe.yaml", "chat_template.jinja", "losses.png"} <= {p.name for p in adapter.iterdir()}
    assert "llava-uhd-v2 merge lora" in (adapter / "README.md").read_text()


def test_a_merged_adapter_has_the_same_logits(adapter, checkpoint, samples, tmp_path):
    merge_adapter(str(adapter), tmp_path / "merged")
    dataset, processor = dataset_of(samples), AutoProcessor.from_pretrained(tmp_path / "merged")
    batch = [dataset[0], dataset[5]]
    inputs = processor.apply_chat_template(
        [sample["messages"] for sample in batch],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"images": [sample["images"] for sample in batch], "padding": True},
    )
    adapted = PeftModel.from_pretrained(load(checkpoint), adapter).eval()
    with torch.no_grad():
        base, ours, merged = (
            model(**inputs).logits for model in (load(checkpoint), adapted, load(tmp_path / "merged"))
        )
    assert (ours - base).abs().max() > 0.01
    torch.testing.assert_close(merged, ours, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        merge_adapter(str(adapter), tmp_path / "merged")
    with pytest.raises(ValueError, match="is no folder of an adapter"):
        merge_adapter(str(checkpoint), tmp_path / "other")


def test_a_training_goes_on_from_an_adapter(adapter, samples, tmp_path):
    more = ["parts.vision_tower.train=false", "parts.fixups.train=true", "training.max_steps=1"]
    output = train("sft", adapter, samples, tmp_path / "more", *more, "training.learning_rate=0")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, output))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match=r"other settings than `lora` \(r is 4\); set `lora`=null"):
        train("sft", adapter, samples, tmp_path / "other", *more, "lora.r=8", "lora.alpha=256")


def test_targets_outside_of_the_text_model_need_their_part(checkpoint, samples, tmp_path):
    more = ["lora.r=4", "lora.targets='.*vision_tower.*q_proj'"]
    recipe = make_recipe("sft", checkpoint, samples, tmp_path / "out", *more)
    names = {name for name, p in trainer_of(recipe, "sft").model.named_parameters() if p.requires_grad}
    assert {part_of(name) for name in names if ".lora_" in name} == {"vision_tower"}
    with pytest.raises(ValueError, match="`vision_tower` is not trained"):
        train("sft", checkpoint, samples, tmp_path / "out", *more, "parts.vision_tower.train=false")
    with pytest.raises(ValueError, match=r"`lora.targets`=\['qkv'\] names no layer"):
        train("sft", checkpoint, samples, tmp_path / "out", "lora.targets=[qkv]")


def test_quantisation_needs_bitsandbytes(checkpoint, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs bitsandbytes, which is not installed"):
        train("sft", checkpoint, samples, tmp_path / "out", "lora.r=4", "quantization.type=nf4")


def test_quantisation_leaves_tower_projector_and_head_as_they_are(samples, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    checkpoint = write_checkpoint(tmp_path / "wide", width=128)  # the narrowest that 4-bit layers run on a CPU
    more = ["lora.r=4", "quantization.type=nf4", "parts.vision_tower.train=false", "training.save_steps=3"]
    model = trainer_of(make_recipe("sft", checkpoint, samples, tmp_path / "out", *more), "sft").model
    layers = [name for name, module in model.named_modules() if type(module) is bitsandbytes.nn.Linear4bit]
    assert {part_of(f"{name}.weight") for name in layers} == {"language_model"}
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    output = train("sft", checkpoint, samples, tmp_path / "out", *more)
    losses = logged(output, 3)
    assert losses[3] < losses[1]
    merge_adapter(str(output), tmp_path / "merged")
    assert {tensor.dtype for tensor in load(tmp_path / "merged").state_dict().values()} == {torch.float32}


# Bad input


def test_what_can_not_be_used_is_named_before_the_first_step(checkpoint, samples, tmp_path):
    out, tower = tmp_path / "out", tmp_path / "tower"
    load(checkpoint).model.visual.vision_tower.save_pretrained(tower)
    with pytest.raises(ValueError, match="unknown key `parts.vision_towr`; did you mean `parts.vision_tower`"):
        train("sft", checkpoint, samples, out, "parts.vision_towr.train=true")
    records = json.loads(samples.read_text())
    records[2]["image"] = "nowhere.png"
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(json.dumps(record) for record in records))
    shutil.copytree(samples.parent, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"lines.jsonl:3: `image`: there is no file .*nowhere.png"):
        train("sft", checkpoint, lines, out)
    nothing = [f"parts.{part}.train=false" for part in ("vision_tower", "window_attention", "positions")]
    with pytest.raises(ValueError, match="Nothing would be trained: set"):
        train("sft", checkpoint, samples, out, *nothing, "parts.language_model.train=false")
    with pytest.raises(ValueError, match="There is no folder .*no-model"):
        train("sft", tmp_path / "no-model", samples, out)
    with pytest.raises(ValueError, match="holds a model of type `clip_vision_model`"):
        train("sft", tower, samples, out)
    with pytest.raises(ValueError, match="`quantization` needs `lora`"):
        make_recipe("sft", checkpoint, samples, out, "quantization.type=nf4")
    with pytest.raises(ValueError, match="`data.streaming`=true needs `training.max_steps`"):
        make_recipe("sft", checkpoint, samples, out, "data.streaming=true", "training.max_steps=-1")
    with pytest.raises(ValueError, match="can't be grouped by length; set `training.train_sampling_strategy`=random"):
        more = ["data.streaming=true", "training.train_sampling_strategy=group_by_length"]
        make_recipe("sft", checkpoint, samples, out, *more)
    with pytest.raises(ValueError, match="'steps' needs the section `evaluation`"):
        make_recipe("sft", checkpoint, samples, out, "training.eval_strategy=steps", "training.eval_steps=1")
    with pytest.raises(ValueError, match="`parts.language_model.learning_rate` must be at least 0, got -1.0"):
        train("sft", checkpoint, samples, out, "parts.language_model.learning_rate=-1")
    assert not out.exists()


def test_another_recipe_or_model_does_not_go_on(pretrained, checkpoint, samples, tmp_path):
    shutil.copytree(pretrained, tmp_path / "out")
    more = ["training.report_to=tensorboard", "training.save_steps=3"]
    with pytest.raises(ValueError, match=r"another recipe \(training.learning_rate differ\)"):
        train("pretrain", checkpoint, samples, pretrained, *more, "training.learning_rate=0.1")
    other = shutil.copytree(checkpoint, tmp_path / "other")
    with pytest.raises(ValueError, match=r"another recipe \(model, data differ\)"):
        train("pretrain", other, samples, pretrained, *more, "data.max_length=99")


def test_a_disk_that_is_too_small_is_named_in_time(checkpoint, samples, tmp_path, caplog, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    output = train("pretrain", checkpoint, samples, tmp_path / "out", "training.save_steps=2")
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


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_the_shipped_recipes(stage):
    names = shipped_recipes(stage)
    assert names.keys() - RELEASED.keys() == ({"sft-paper", "sft-lora", "sft-qlora"} if stage == "sft" else set())
    for name in names:
        recipe = read_recipe(FinetuneRecipe, name, ["training.bf16=false"], stage=stage)
        args, data, plan = recipe.training, recipe.data, plan_parts(recipe.parts, stage, recipe.training)
        assert args.output_dir == name
        assert (args.warmup_steps, args.weight_decay, args.lr_scheduler_type) == (0.03, 0, "cosine")
        assert "window_attention" in plan and "upsampler" not in plan
        assert ("vision_tower" in plan, "language_model" in plan) == (
            stage == "sft" and "lora" not in name,
            stage == "sft",
        )
        assert data.max_slices == {"pretrain": 1, "sft": 6 if name == "sft-paper" else 7}[stage]
        assert data.label_rule == ("released-chatml" if "qwen2" in name else "template")
        if name in RELEASED:
            facts = recipe.batch_size, args.learning_rate, data.max_length, "positions" in plan, "fixups" in plan
            assert facts == RELEASED[name]
            assert recipe.upsampler_dropout


# Kill and resume, several processes


def run_command(*arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([*map(str, arguments)], env=environment, **options)


def command(stage, *arguments):
    return [*COMMAND, stage, RECIPES[stage], *settings(*arguments), *PLAIN]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "more"), [("pretrain", []), ("sft", []), ("sft", ["lora.r=4"])])
def test_a_killed_training_goes_on_with_the_same_losses(stage, more, checkpoint, samples, tmp_path):
    """Five epochs, each in an order of its own; a checkpoint within an epoch."""
    more = ["training.max_steps=20", "training.save_steps=3", *more]
    killed = run_command(*command(stage, checkpoint, samples, tmp_path / "a", *more))
    deadline = time.monotonic() + 120
    while not (tmp_path / "a/checkpoint-6/trainer_state.json").exists():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not any((tmp_path / "a" / name).exists() for name in ("config.json", "adapter_config.json"))

    train(stage, checkpoint, samples, tmp_path / "a", *more)
    train(stage, checkpoint, samples, tmp_path / "b", *more)
    losses = logged(tmp_path / "a", 20)
    assert sorted(losses) == list(range(1, 21))
    assert losses == logged(tmp_path / "b", 20)
    name = "adapter_model.safetensors" if "lora.r=4" in more else "model.safetensors"
    ours, theirs = (load_file(tmp_path / run / name) for run in "ab")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def every_other(samples):
    """Every other sample is text, so that in some steps one of two processes has no image."""
    records = json.loads(samples.read_text())
    for record in records[::2]:
        record.pop("image")
        record["conversations"][0]["value"] = record["conversations"][0]["value"].removeprefix("<image>\n")
    samples.with_name("every-other.json").write_text(json.dumps(records))
    return samples.with_name("every-other.json")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_two_processes_have_the_curve_of_one(stage, checkpoint, every_other, tmp_path):
    more = ["chat_template=null", "upsampler_dropout=false", "batch_size=2"]
    more += ["training.max_steps=12", "training.save_steps=6"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ACCELERATE / "ddp.yaml"]
    launch += ["--num_processes", "2", "--main_process_port", "0", "--no_python"]
    assert run_command(*launch, *command(stage, checkpoint, every_other, tmp_path / "two", *more)).wait() == 0
    assert "| hardware | 2 x CPU |" in (tmp_path / "two/README.md").read_text()
    train(stage, checkpoint, every_other, tmp_path / "one", *more)
    one, two = (logged(tmp_path / run, 12) for run in ("one", "two"))
    assert sorted(one) == list(range(1, 13))
    assert two == pytest.approx(one, rel=1e-3)
    shutil.rmtree(tmp_path / "two/checkpoint-12")  # one process goes on where two stopped
    train(stage, checkpoint, every_other, tmp_path / "two", *more)
    assert logged(tmp_path / "two", 12) == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
def test_sharded_processes_take_the_steps_of_one(checkpoint, every_other, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = ROOT / "tests/sharded_steps.py"
    assert run_command(*launch, script, checkpoint, every_other, tmp_path / "two.pt").wait() == 0
    model = sharded_steps.load(checkpoint)
    losses = sharded_steps.take_steps(model, checkpoint, str(every_other))
    sharded = torch.load(tmp_path / "two.pt", weights_only=True)
    torch.testing.assert_close(sharded["losses"], losses, rtol=1e-4, atol=0)
    assert losses[-1] != losses[0]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(sharded["state"][name], parameter.detach(), rtol=1e-4, atol=1e-5)


# Documentation


def documented_commands():
    text = (ROOT / "docs/training.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture
def documented_files(checkpoint, samples, tmp_path):
    """The files and folders that the documentation names."""
    model = load(checkpoint)
    model.model.visual.vision_tower.save_pretrained(tmp_path / "clip-vit-large-patch14-336")
    text = LlamaForCausalLM(model.config.text_config)
    text.save_pretrained(tmp_path / "vicuna-7b-v1.5")
    shutil.copytree(GOLDEN / "tokenizers/sentencepiece_llama_like", tmp_path / "vicuna-7b-v1.5", dirs_exist_ok=True)
    (tmp_path / "vdim-clip-l-336").mkdir()
    projector = LlavaUhdV2ProjectorConfig()
    facts = VdimFacts("tower", "clip_vision_model", 32, 14, -2, 56, "clip", 2, projector.upsampler_kernel_size, 32)
    save_vdim(tmp_path / "vdim-clip-l-336", LlavaUhdV2Upsampler(projector, 32), facts)
    shutil.copytree(checkpoint, tmp_path / "llava-uhd-v2-vicuna-7b")
    shutil.copytree(samples.parent, tmp_path, dirs_exist_ok=True)
    shutil.copytree(samples.parent, tmp_path / "captions")
    shutil.copyfile(samples, tmp_path / "captions.json")
    shutil.copyfile(samples.parent / "000.png", tmp_path / "photo.jpg")
    shutil.copyfile(ACCELERATE / "ddp.yaml", tmp_path / "fsdp2.yaml")  # accelerate shards on accelerators alone
    return tmp_path


SMALL = ["batch_size=2", "data.pre_resize=null", "training.max_steps=2", "training.report_to=none"]
SMALL += ["training.use_cpu=true", "training.bf16=false", "training.dataloader_num_workers=0"]
REPLACED = {"llava-uhd-v2": [sys.executable, "-c", COMMAND[2]], "python": [sys.executable]}
REPLACED |= {"accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"]}
REPLACED |= {name: [str(ROOT / name)] for name in ("convert/assemble.py", "examples/train_with_trainer.py")}


@pytest.mark.slow
def test_the_documented_commands_run(documented_files):
    """The same lines with a tiny model and few steps."""
    commands = documented_commands()
    assert len(commands) == 8
    for line in commands:
        words = shlex.split(line)
        program = [part for word in words for part in REPLACED.get(word, [word])]
        if "train" in words:
            source = [] if "data.source" in line else ["data.source=samples.json"]
            program += [*SMALL, *source]
        elif "convert/assemble.py" in words:
            program += ["--row-separator-id", "13", "--slice-separator-id", "44"]
        elif "examples/train_with_trainer.py" in words:
            program += ["2"]
        if "accelerate" in words:
            place = program.index("--config_file")
            program[place:place] = ["--num_processes", "2", "--main_process_port", "0"]
        assert run_command(*program, cwd=documented_files).wait() == 0, line
    assert load(documented_files / "sft-vicuna-7b") and load(documented_files / "trained")
