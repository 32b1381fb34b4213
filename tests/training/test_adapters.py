# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning by LoRA and QLoRA: what is in an adapter folder, and what becomes of it."""

import importlib.util
import json
import re
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, PeftModelForCausalLM, get_peft_model
from safetensors.torch import load_file
from transformers import AutoProcessor
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.evaluation.evaluated_model import EvaluatedModel
from llava_uhd_v2_hf.evaluation.settings import EvaluationSettings
from llava_uhd_v2_hf.inference import adapter_fit
from llava_uhd_v2_hf.inference.checkpoints import base_of
from llava_uhd_v2_hf.inference.loading import load_network
from llava_uhd_v2_hf.pictures.pyramid import load_pyramid
from llava_uhd_v2_hf.training.adapters import merge_adapter
from llava_uhd_v2_hf.training.parameter_groups import part_of
from tests.support.finetune_data import write_checkpoint
from tests.support.finetune_runs import dataset_of, load, logged, make_recipe, train, trainer_of


GOES_ON = ["parts.vision_tower.train=false", "parts.fixups.train=true"]


@pytest.fixture(scope="module")
def adapter(tiny_checkpoint, samples, tmp_path_factory):
    """Read it, don't write to it."""
    output = tmp_path_factory.mktemp("adapter") / "lora"
    more = ["lora.r=4", *GOES_ON, "training.save_steps=3"]
    return train("sft", tiny_checkpoint, samples, output, *more)


def test_an_adapter_folder_has_everything_that_was_trained(adapter):
    names = load_file(adapter / "adapter_model.safetensors").keys()
    low_rank = {name for name in names if ".lora_" in name}
    assert low_rank and all(".language_model.layers." in name for name in low_rank)
    leaves = {name.split(".lora_")[0].rpartition(".")[2] for name in low_rank}
    assert leaves == {f"{leaf}_proj" for leaf in ("q", "k", "v", "o", "gate", "up", "down")}
    assert {part_of(name) for name in names - low_rank} == {"window_attention", "positions", "fixups"}
    assert {"README.md", "recipe.yaml", "chat_template.jinja", "losses.png"} <= {p.name for p in adapter.iterdir()}
    assert "llava-uhd-v2 merge lora" in (adapter / "README.md").read_text()


def test_a_merged_adapter_has_the_same_logits(adapter, tiny_checkpoint, samples, tmp_path):
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
    adapted = PeftModel.from_pretrained(load(tiny_checkpoint), adapter).eval()
    with torch.no_grad():
        base, ours, merged = (
            model(**inputs).logits for model in (load(tiny_checkpoint), adapted, load(tmp_path / "merged"))
        )
    assert (ours - base).abs().max() > 0.01
    torch.testing.assert_close(merged, ours, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        merge_adapter(str(adapter), tmp_path / "merged")
    with pytest.raises(ValueError, match="Expected a folder or Hub id of an adapter, got "):
        merge_adapter(str(tiny_checkpoint), tmp_path / "other")


def answers_of(model, inputs):
    return model.eval().generate(**inputs, max_new_tokens=5, do_sample=False)[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("task", ["CAUSAL_LM", pytest.param(None, marks=pytest.mark.slow)])
def test_peft_and_transformers_load_an_adapter_of_ours(task, adapter, tiny_checkpoint, samples, tmp_path, monkeypatch):
    """Adapters without a task type, which older versions wrote, load with our commands as before."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["task_type"] == "CAUSAL_LM"
    shutil.copytree(adapter, tmp_path / "copy")
    (tmp_path / "copy/adapter_config.json").write_text(json.dumps({**config, "task_type": task}))
    sample, processor = dataset_of(samples)[5], AutoProcessor.from_pretrained(tmp_path / "copy")
    inputs = processor.apply_chat_template(
        [sample["messages"][:1]],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"images": [sample["images"]]},
    )
    ours = PeftModel.from_pretrained(load(tiny_checkpoint), tmp_path / "copy")
    assert type(ours) is (PeftModelForCausalLM if task else PeftModel)
    expected = answers_of(load_network(str(tmp_path / "copy")), inputs)
    assert torch.equal(answers_of(ours, inputs), expected)
    if task:
        automatic = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "copy")
        assert torch.equal(answers_of(automatic, inputs), expected)
    merge_adapter(str(tmp_path / "copy"), tmp_path / "merged")
    assert torch.equal(answers_of(load(tmp_path / "merged"), inputs), expected)
    output = train("sft", tmp_path / "copy", samples, tmp_path / "more", *GOES_ON, "training.max_steps=1")
    assert json.loads((output / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"


def test_an_adapter_of_a_relative_checkpoint_is_used_from_elsewhere(tiny_checkpoint, samples, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_checkpoint.parent)
    train("sft", tiny_checkpoint.name, samples, tmp_path / "lora", "lora.r=2", *GOES_ON)
    monkeypatch.chdir(tmp_path)
    for folder in ("lora", "lora/checkpoint-3"):
        assert base_of(folder) == str(tiny_checkpoint)
    merge_adapter("lora", tmp_path / "merged")
    older = json.loads((tmp_path / "lora/adapter_config.json").read_text()) | {"base_model_name_or_path": "model"}
    (tmp_path / "lora/adapter_config.json").write_text(json.dumps(older))
    for command in (["merge", "lora", "other"], ["ask", "What?", "--model", "lora", "--image", "x.png"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        assert "checkpoint of the adapter lora, its `base_model_name_or_path`, can't be used: There" in result.stderr
    monkeypatch.chdir(tiny_checkpoint.parent)
    output = train("sft", tmp_path / "lora", samples, tmp_path / "more", *GOES_ON, "training.max_steps=1")
    assert base_of(str(output)) == str(tiny_checkpoint)


def test_a_training_goes_on_from_an_adapter(adapter, samples, tmp_path):
    more = [*GOES_ON, "training.max_steps=1"]
    output = train("sft", adapter, samples, tmp_path / "more", *more, "training.learning_rate=0")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, output))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match=r"other settings than `lora` \(r is 4\); set `lora`=null"):
        train("sft", adapter, samples, tmp_path / "other", *more, "lora.r=8", "lora.alpha=256")


def add_tokens(model, processor):
    """A vocabulary with two more tokens than the checkpoint's."""
    processor.tokenizer.add_tokens(["<x>", "<y>"])
    model.resize_token_embeddings(len(processor.tokenizer))


@pytest.mark.parametrize("saved", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_adapter_of_another_vocabulary_is_named_in_one_line(saved, tiny_checkpoint, samples, tmp_path, monkeypatch):
    """PEFT saves resized embeddings only where it is told to."""
    model, processor = load(tiny_checkpoint), AutoProcessor.from_pretrained(tiny_checkpoint)
    add_tokens(model, processor)
    rows = model.get_input_embeddings().num_embeddings
    kept = ["embed_tokens", "lm_head"] if saved else None
    adapted = get_peft_model(model, LoraConfig(target_modules=r".*language_model.*q_proj", modules_to_save=kept))
    adapted.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    message = f"has {rows} tokens, but its checkpoint {tiny_checkpoint} has embeddings for {rows - 2}"
    image = samples.parent / "000.png"
    for command in (
        ["ask", "What?", "--model", tmp_path / "adapter", "--image", image],
        ["merge", tmp_path / "adapter", tmp_path / "merged"],
    ):
        result = CliRunner().invoke(app, list(map(str, command)))
        assert result.exit_code == 1 and message in result.stderr, result.output
        assert isinstance(result.exception, SystemExit)
    for use in (
        lambda: load_network(str(tmp_path / "adapter")),  # serve, demo, visualize
        lambda: train("sft", tmp_path / "adapter", samples, tmp_path / "out", "parts.vision_tower.train=false"),
        lambda: load_pyramid(str(tmp_path / "adapter")),
        lambda: EvaluatedModel(EvaluationSettings(str(tmp_path / "adapter")), tmp_path / "record.json", "test"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            use()
    monkeypatch.setattr(adapter_fit, "_count_tokens", lambda _: 0)  # a vocabulary that was padded, without tokens
    if saved:
        with pytest.raises(ValueError, match="The weights of the adapter .* don't fit its checkpoint .*resize"):
            load_network(str(tmp_path / "adapter"))
        with pytest.raises(ValueError, match="The weights of the adapter .* don't fit its checkpoint .*resize"):
            merge_adapter(str(tmp_path / "adapter"), tmp_path / "merged")


def test_targets_outside_of_the_text_model_need_their_part(tiny_checkpoint, samples, tmp_path):
    more = ["lora.r=4", "lora.targets='.*vision_tower.*q_proj'"]
    recipe = make_recipe("sft", tiny_checkpoint, samples, tmp_path / "out", *more)
    names = {name for name, p in trainer_of(recipe, "sft").model.named_parameters() if p.requires_grad}
    assert {part_of(name) for name in names if ".lora_" in name} == {"vision_tower"}
    with pytest.raises(ValueError, match="`vision_tower` is not trained"):
        train("sft", tiny_checkpoint, samples, tmp_path / "out", *more, "parts.vision_tower.train=false")
    with pytest.raises(ValueError, match=r"`lora.targets`=\['qkv'\] names no layer"):
        train("sft", tiny_checkpoint, samples, tmp_path / "out", "lora.targets=[qkv]")


def test_quantisation_needs_bitsandbytes(tiny_checkpoint, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs bitsandbytes, which is not installed"):
        train("sft", tiny_checkpoint, samples, tmp_path / "out", "lora.r=4", "quantization.type=nf4")


def test_quantisation_leaves_tower_projector_and_head_as_they_are(samples, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    tiny_checkpoint = write_checkpoint(tmp_path / "wide", width=128)  # the narrowest that 4-bit layers run on a CPU
    more = ["lora.r=4", "quantization.type=nf4", "parts.vision_tower.train=false", "training.save_steps=3"]
    model = trainer_of(make_recipe("sft", tiny_checkpoint, samples, tmp_path / "out", *more), "sft").model
    layers = [name for name, module in model.named_modules() if type(module) is bitsandbytes.nn.Linear4bit]
    assert {part_of(f"{name}.weight") for name in layers} == {"language_model"}
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    output = train("sft", tiny_checkpoint, samples, tmp_path / "out", *more)
    losses = logged(output, 3)
    assert losses[3] < losses[1]
    merge_adapter(str(output), tmp_path / "merged")
    assert {tensor.dtype for tensor in load(tmp_path / "merged").state_dict().values()} == {torch.float32}
