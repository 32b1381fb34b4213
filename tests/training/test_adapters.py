# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning by LoRA and QLoRA: what is in an adapter folder, and what becomes of it."""

import importlib.util

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoProcessor

from llava_uhd_v2_hf.training.adapters import merge_adapter
from llava_uhd_v2_hf.training.parameter_groups import part_of
from tests.support.finetune_data import write_checkpoint
from tests.support.finetune_runs import dataset_of, load, logged, make_recipe, train, trainer_of


@pytest.fixture(scope="module")
def adapter(tiny_checkpoint, samples, tmp_path_factory):
    """Read it, don't write to it."""
    output = tmp_path_factory.mktemp("adapter") / "lora"
    more = ["lora.r=4", "parts.vision_tower.train=false", "parts.fixups.train=true", "training.save_steps=3"]
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


def test_a_training_goes_on_from_an_adapter(adapter, samples, tmp_path):
    more = ["parts.vision_tower.train=false", "parts.fixups.train=true", "training.max_steps=1"]
    output = train("sft", adapter, samples, tmp_path / "more", *more, "training.learning_rate=0")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, output))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match=r"other settings than `lora` \(r is 4\); set `lora`=null"):
        train("sft", adapter, samples, tmp_path / "other", *more, "lora.r=8", "lora.alpha=256")


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
