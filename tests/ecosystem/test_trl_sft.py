# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""TRL's SFTTrainer: its loss is ours, it trains what it is told to and nothing else, and its results load."""

import os
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoProcessor
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import disable_dropout_in_model

from llava_uhd_v2_hf.data.collation import ConversationCollator
from llava_uhd_v2_hf.data.labels import IGNORED
from llava_uhd_v2_hf.training.adapters import merge_adapter
from llava_uhd_v2_hf.training.parameter_groups import part_of
from tests.ecosystem.trl_data import (
    SHAPES,
    TWO_TURNS,
    encode,
    load,
    lora_config,
    messages_dataset,
    messages_of,
    own_loss,
    prompt_dataset,
)
from tests.support.paths import ROOT


ROWS = {"one image": [0, 3], "several images": [1, 4], "no image": [2, 5], "mixed": [0, 1, 2, 3, 4, 5]}
each_kind_of_rows = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())


def make_trainer(model, dataset, output, peft_config=None, **options):
    settings = {
        "output_dir": str(output),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "max_length": None,
        "per_device_train_batch_size": len(dataset),
    }
    arguments = SFTConfig(**settings | options)
    trainer = SFTTrainer(model, arguments, train_dataset=dataset, peft_config=peft_config)
    disable_dropout_in_model(trainer.model)  # or the losses of training would differ
    return trainer


def trl_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def trl_loss(trainer):
    """Of the trainer's own first batch."""
    return trainer.compute_loss(trainer.model, trl_batch(trainer)).detach()


def samples_of(dataset):
    return [{"messages": messages_of(row), "images": row.get("images", [])} for row in dataset]


def collated_loss(checkpoint, dataset):
    """Our own loss of our own collator's batch."""
    batch = ConversationCollator(AutoProcessor.from_pretrained(checkpoint))(samples_of(dataset))
    return own_loss(load(checkpoint), batch, batch["labels"])


def assert_same(loss, expected):
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)


@pytest.mark.client("trl", "SFTTrainer, `messages`: its loss is ours, with one, several, no and mixed images")
@each_kind_of_rows
def test_the_loss_of_messages(tiny_checkpoint, tmp_path, rows):
    dataset = messages_dataset().select(rows)
    inputs = encode(AutoProcessor.from_pretrained(tiny_checkpoint), samples_of(dataset))
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)
    loss = trl_loss(make_trainer(load(tiny_checkpoint), dataset, tmp_path))
    assert_same(loss, own_loss(load(tiny_checkpoint), inputs, labels))


@pytest.mark.client("trl", "SFTTrainer, `prompt` and `completion`: its loss is ours, with all kinds of rows")
@each_kind_of_rows
def test_the_loss_of_completions(tiny_checkpoint, tmp_path, rows):
    dataset = prompt_dataset().select(rows)
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    inputs = encode(processor, samples_of(dataset))
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)
    for row, of_row in zip(dataset, labels):
        prompt = {"messages": row["prompt"], "images": row["images"]}
        of_row[: encode(processor, [prompt], add_generation_prompt=True)["input_ids"].shape[1]] = IGNORED
    loss = trl_loss(make_trainer(load(tiny_checkpoint), dataset, tmp_path))
    assert_same(loss, own_loss(load(tiny_checkpoint), inputs, labels))
    assert_same(loss, collated_loss(tiny_checkpoint, dataset))


@pytest.mark.client(
    "trl", "SFTTrainer, `assistant_only_loss`: its loss is that of our collator, with all kinds of rows"
)
@each_kind_of_rows
def test_the_loss_of_answers_alone(tiny_checkpoint, tmp_path, rows):
    dataset = messages_dataset().select(rows)
    trainer = make_trainer(load(tiny_checkpoint), dataset, tmp_path, assistant_only_loss=True)
    assert_same(trl_loss(trainer), collated_loss(tiny_checkpoint, dataset))
    labels = trl_batch(trainer)["labels"]
    trained = {trainer.processing_class.decode(of_row[of_row != IGNORED]) for of_row in labels}
    ends = {row: "</s> quite sure</s>" if row in TWO_TURNS else "</s>" for row in rows}
    assert trained == {SHAPES[row][2] + end for row, end in ends.items()}


@pytest.mark.client("trl", "SFTTrainer, data sets without images: tokenised before training, its loss is ours")
@pytest.mark.parametrize(
    ("make_dataset", "options"),
    [(messages_dataset, {"assistant_only_loss": True}), (prompt_dataset, {})],
    ids=["messages", "prompt and completion"],
)
def test_data_sets_without_images(tiny_checkpoint, tmp_path, make_dataset, options):
    dataset = make_dataset().select(ROWS["no image"]).remove_columns("images")
    trainer = make_trainer(load(tiny_checkpoint), dataset, tmp_path, **options)
    assert_same(trl_loss(trainer), collated_loss(tiny_checkpoint, dataset))


@pytest.mark.client("trl", "SFTTrainer: a `max_length` that would cut an image is an error, not a wrong loss")
@pytest.mark.parametrize(
    ("make_dataset", "message"),
    [(messages_dataset, "Mismatch in `image` token count"), (prompt_dataset, "don't cut the prompt")],
    ids=["messages", "prompt and completion"],
)
def test_images_are_not_cut(tiny_checkpoint, tmp_path, make_dataset, message):
    trainer = make_trainer(load(tiny_checkpoint), make_dataset(), tmp_path, max_length=60)
    with pytest.raises(ValueError, match=message):
        trainer.train()


@pytest.fixture(scope="module", params=["window_attention", "projector"])
def trained(request, tiny_checkpoint, tmp_path_factory):
    """A trainer after three steps of all rows, one at a time, and what its trained tensors were before."""
    trainer = make_trainer(
        load(tiny_checkpoint),
        messages_dataset(),
        tmp_path_factory.mktemp("trl") / "adapter",
        lora_config(request.param),
        assistant_only_loss=True,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=6,
        learning_rate=1e-2,
        max_steps=3,
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    trainer.save_model()
    return trainer, before


@pytest.mark.client(
    "trl", "SFTTrainer with LoRA and gradient accumulation: trains adapters and projector, nothing else"
)
def test_lora_trains_what_it_is_told_to(trained, tiny_checkpoint):
    trainer, before = trained
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert_same(torch.tensor(losses[0]), collated_loss(tiny_checkpoint, messages_dataset()))
    assert losses[2] < losses[1] < losses[0]
    after = trainer.model.state_dict()
    assert not [name for name, tensor in before.items() if torch.equal(tensor, after[name])]
    in_full = {name for name in before if ".lora_" not in name}
    assert {part_of(name) for name in in_full} >= {"window_attention", "positions"}
    assert {part_of(name) for name in before.keys() - in_full} == {"language_model"}
    kept = {base_name(name): tensor for name, tensor in after.items() if name not in before}
    assert_equal_tensors(kept, load(tiny_checkpoint).state_dict())


@pytest.mark.client("trl", "SFTTrainer with LoRA and gradient checkpointing: a frozen tower is not differentiated")
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_with_lora(tiny_checkpoint, tmp_path, reentrant):
    options = {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}, "max_steps": 1}
    model, of_tower, of_text = load(tiny_checkpoint), [], []
    tower, text = model.model.visual.vision_tower, model.model.language_model
    tower.encoder.layers[0].register_forward_hook(lambda _, __, output: of_tower.append(output.requires_grad))
    text.layers[0].self_attn.register_forward_pre_hook(lambda *_: of_text.append(1))
    adapter, dataset = lora_config("window_attention"), messages_dataset()
    trainer = make_trainer(model, dataset, tmp_path, adapter, assistant_only_loss=True, **options)
    assert trainer.args.gradient_checkpointing
    trainer.train()
    assert of_tower and not any(of_tower) and len(of_text) == 2
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert_same(torch.tensor(losses[0]), collated_loss(tiny_checkpoint, messages_dataset()))


def base_name(name):
    """The name that a tensor has in the model before PEFT."""
    name = name.removeprefix("base_model.model.")
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")


def assert_equal_tensors(left, right):
    assert left.keys() == right.keys()
    assert [name for name, tensor in left.items() if not torch.equal(tensor, right[name])] == []


@torch.no_grad()
def logits_of(model, inputs):
    return model.eval()(**inputs).logits


@pytest.mark.client("trl", "SFTTrainer with LoRA: the saved adapter loads by PEFT and transformers, and merges")
def test_a_saved_adapter_is_the_trained_model(trained, tiny_checkpoint, tmp_path):
    trainer, _ = trained
    folder = trainer.args.output_dir
    processor = AutoProcessor.from_pretrained(folder)
    inputs = encode(processor, samples_of(messages_dataset()))
    expected = logits_of(trainer.model, inputs)
    assert (expected - logits_of(load(tiny_checkpoint), inputs)).abs().max() > 0.1
    torch.testing.assert_close(logits_of(PeftModel.from_pretrained(load(tiny_checkpoint), folder), inputs), expected)
    torch.testing.assert_close(logits_of(load(folder), inputs), expected)
    merge_adapter(folder, tmp_path / "merged")
    torch.testing.assert_close(logits_of(load(tmp_path / "merged"), inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.client("trl", "SFTTrainer of a whole model, given by its folder: trains, evaluates, and the result loads")
def test_a_whole_model_by_its_folder(tiny_checkpoint, tmp_path):
    dataset = messages_dataset()
    options = {"assistant_only_loss": True, "learning_rate": 1e-3, "max_steps": 2}
    trainer = make_trainer(str(tiny_checkpoint), dataset, tmp_path / "out", **options)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert_same(torch.tensor(losses[0]), collated_loss(tiny_checkpoint, dataset))
    trainer.save_model()
    batch = ConversationCollator(AutoProcessor.from_pretrained(tmp_path / "out"))(samples_of(dataset))
    after = own_loss(load(tmp_path / "out"), batch, batch["labels"])
    assert after < losses[1] < losses[0]
    assert_same(torch.tensor(trainer.evaluate(dataset)["eval_loss"]), after)


@pytest.mark.client("trl", "examples/sft_with_trl.py in a process of its own: its adapter loads, and was trained")
def test_the_example(tiny_checkpoint, samples, tmp_path):
    command = [sys.executable, ROOT / "examples/sft_with_trl.py", tiny_checkpoint, samples, tmp_path / "out", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*map(str, command)], env=environment, check=True)
    names = load_file(tmp_path / "out/adapter_model.safetensors").keys()
    assert {part_of(name) for name in names} == {"language_model", "window_attention", "positions"}
    inputs = encode(AutoProcessor.from_pretrained(tmp_path / "out"), samples_of(messages_dataset()))
    base, adapted = (logits_of(load(folder), inputs) for folder in (tiny_checkpoint, tmp_path / "out"))
    assert (adapted - base).abs().max() > 1e-3
