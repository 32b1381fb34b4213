# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' own `Trainer`: its loss, its metrics and its ways to save memory and time, with our classes."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoProcessor, LlavaConfig, LlavaForConditionalGeneration, Trainer
from transformers.trainer_pt_utils import LabelSmoother

from llava_uhd_v2_hf.data.collation import ConversationCollator
from tests.ecosystem.plain_trainer import (
    RecordedTrainer,
    UserCollator,
    assert_same_gradients,
    load,
    make_arguments,
    make_conversation,
    mixed_conversations,
)


SMOOTHING = 0.3
COLLATORS = {"our-collator": ConversationCollator, "users-collator": UserCollator}


@pytest.fixture(params=COLLATORS)
def collator(request, tiny_checkpoint):
    return COLLATORS[request.param](AutoProcessor.from_pretrained(tiny_checkpoint))


@pytest.fixture
def our_collator(tiny_checkpoint):
    return ConversationCollator(AutoProcessor.from_pretrained(tiny_checkpoint))


def train(model, folder, collator, data, compute_loss_func=None, **settings):
    options = {"train_dataset": data, "data_collator": collator, "compute_loss_func": compute_loss_func}
    trainer = RecordedTrainer(model, make_arguments(folder, **settings), **options)
    trainer.train()
    return trainer


def accumulated(micro_batch):
    """One step of eight samples, so many at once."""
    return {
        "max_steps": 1,
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": 8 // micro_batch,
    }


@pytest.mark.client("transformers", "Trainer: accumulated batches of any size have loss and gradients of the whole")
def test_accumulated_batches_have_the_loss_and_gradients_of_the_whole(tiny_checkpoint, collator, tmp_path):
    data = mixed_conversations()
    labels = [collator([sample])["labels"].ne(-100).sum().item() for sample in data]
    assert len(set(labels)) > 2
    whole = train(load(tiny_checkpoint, dropout=False), tmp_path, collator, data, **accumulated(8))
    for micro_batch in (4, 2, 1):
        model = load(tiny_checkpoint, dropout=False)
        parts = train(model, tmp_path, collator, data, **accumulated(micro_batch))
        assert {size for size, _ in parts.steps.batches} == {micro_batch}
        assert parts.losses()[1] == pytest.approx(whole.losses()[1], rel=1e-5)
        assert_same_gradients(parts.steps.gradients[0], whole.steps.gradients[0])
    model = load(tiny_checkpoint, dropout=False)
    model.accepts_loss_kwargs = False  # the mean over batches is another number
    means = train(model, tmp_path, collator, data, **accumulated(1))
    assert means.losses()[1] != pytest.approx(whole.losses()[1], rel=1e-2)


def smoothed_loss(model, batch, shift=1):
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    predicted, labels = logits[:, : logits.shape[1] - shift], batch["labels"][:, shift:]
    return F.cross_entropy(predicted.flatten(0, 1), labels.flatten(), label_smoothing=SMOOTHING)


@pytest.mark.client(
    "transformers", "Trainer: smoothed labels, by `compute_loss_func` with transformers' LabelSmoother"
)
def test_label_smoothing(tiny_checkpoint, collator, tmp_path):
    data = mixed_conversations()
    model = load(tiny_checkpoint, dropout=False).train()
    expected = smoothed_loss(model, collator(data))
    expected.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    smoother = partial(LabelSmoother(SMOOTHING), shift_labels=True)
    for micro_batch in (8, 2):
        model = load(tiny_checkpoint, dropout=False)
        trainer = train(model, tmp_path, collator, data, smoother, **accumulated(micro_batch))
        assert trainer.losses()[1] == pytest.approx(expected.item(), rel=1e-5)
        assert_same_gradients(trainer.steps.gradients[0], gradients)


def transformers_llava(checkpoint):
    config = load(checkpoint).config
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=config.vision_config, text_config=config.text_config, image_token_index=config.image_token_id
        )
    )


@pytest.mark.client(
    "transformers", "Trainer: `label_smoothing_factor` shifts no labels of image-text classes (a limit)"
)
@pytest.mark.parametrize("make_model", [load, transformers_llava])
def test_label_smoothing_factor_alone_shifts_no_labels(make_model, tiny_checkpoint, our_collator, tmp_path):
    """Trainer knows by name the classes whose labels it has to shift; neither ours nor its own LLaVA is one."""
    batch = our_collator(data := [sample for sample in mixed_conversations() if not sample["images"]])
    model = make_model(tiny_checkpoint)
    unshifted, shifted = (smoothed_loss(model.eval(), batch, shift).item() for shift in (0, 1))
    arguments = make_arguments(tmp_path, label_smoothing_factor=SMOOTHING)
    loss = Trainer(model, arguments, eval_dataset=data, data_collator=our_collator).evaluate()["eval_loss"]
    assert loss == pytest.approx(unshifted, rel=1e-5)
    assert loss != pytest.approx(shifted, rel=1e-2)


def token_accuracy(predicted, labels):
    kept = labels[:, 1:] != -100
    return {"accuracy": (predicted[:, :-1] == labels[:, 1:])[kept].mean()}


def from_logits(outputs):
    assert outputs.predictions.ndim == 3  # of no other output
    return token_accuracy(outputs.predictions.argmax(-1), outputs.label_ids)


def from_ids(outputs):
    return token_accuracy(outputs.predictions, outputs.label_ids)


METRICS = {
    "logits": {"compute_metrics": from_logits},
    "ids": {"compute_metrics": from_ids, "preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)},
}


@torch.no_grad()
def expected_metrics(model, collator, data):
    """Sample by sample: correct among all tokens, and the mean of the losses of each batch."""
    correct, losses = [], []
    for sample in data:
        batch = collator([sample])
        output = model.eval()(**batch)
        kept = batch["labels"][:, 1:] != -100
        correct += (output.logits.argmax(-1)[:, :-1] == batch["labels"][:, 1:])[kept].tolist()
        losses.append(output.loss.item())
    return {"eval_accuracy": np.mean(correct), "eval_loss": np.mean(losses)}


@pytest.fixture(scope="module")
def trained(tiny_checkpoint, tmp_path_factory):
    """A model that gets some tokens right, and the samples that it was trained on, sorted by their images."""
    data = sorted(mixed_conversations(9), key=lambda sample: len(sample["images"]))
    collator = ConversationCollator(AutoProcessor.from_pretrained(tiny_checkpoint))
    settings = {"max_steps": 8, "per_device_train_batch_size": 9, "learning_rate": 3e-3}
    return train(load(tiny_checkpoint), tmp_path_factory.mktemp("trained"), collator, data, **settings).model, data


@pytest.mark.client("transformers", "Trainer: token accuracy by `compute_metrics`, also of batches without images")
@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_metrics_from_logits(kind, batch_size, trained, collator, tmp_path):
    """Batches without images, with one image for each sample and with two."""
    model, data = trained
    arguments = make_arguments(tmp_path, per_device_eval_batch_size=batch_size)
    trainer = RecordedTrainer(model, arguments, eval_dataset=data, data_collator=collator, **METRICS[kind])
    measured = trainer.evaluate()
    assert {images for _, images in trainer.steps.batches} == {0, batch_size, 2 * batch_size}
    expected = expected_metrics(model, collator, data)
    assert 0.1 < expected["eval_accuracy"] < 1
    assert measured["eval_accuracy"] == pytest.approx(expected["eval_accuracy"], abs=1e-6)
    if batch_size == 1:  # else the mean over batches is another one
        assert measured["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-5)


def refuse_more_than(samples):
    def hook(module, args, inputs):
        if module.training and len(inputs["input_ids"]) > samples:
            raise torch.OutOfMemoryError(f"Tried to allocate {len(inputs['input_ids'])} samples: out of memory.")

    return hook


@pytest.mark.client("transformers", "Trainer: `auto_find_batch_size` goes on with a batch that fits into memory")
def test_auto_find_batch_size(tiny_checkpoint, our_collator, tmp_path):
    data, settings = mixed_conversations(6), {"num_train_epochs": 1, "auto_find_batch_size": True}
    model = load(tiny_checkpoint, dropout=False)
    model.register_forward_pre_hook(refuse_more_than(2), with_kwargs=True)
    found = train(model, tmp_path, our_collator, data, per_device_train_batch_size=4, **settings)
    assert [size for size, _ in found.steps.batches] == [2] * 3
    model = load(tiny_checkpoint, dropout=False)
    known = train(model, tmp_path, our_collator, data, per_device_train_batch_size=2, **settings)
    assert len(found.losses()) == 3 and found.losses() == pytest.approx(known.losses(), rel=1e-5)


def count_attention(model):
    """How often the attention of each layer of tower and text model begins."""
    counts = Counter()
    for name, module in model.named_modules():
        if name.endswith(".self_attn"):
            module.register_forward_pre_hook(lambda *_, name=name: counts.update([name]))
    return counts


CHECKPOINTING = {
    "activation_checkpointing": {"activation_checkpointing": True},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "activation_checkpointing_enable": {},
    "gradient_checkpointing_enable": {},
}


@pytest.mark.client("transformers", "Trainer: activation checkpointing by both names, losses and gradients as without")
@pytest.mark.parametrize("name", CHECKPOINTING)
def test_activation_checkpointing(name, tiny_checkpoint, our_collator, tmp_path):
    """With the dropouts of the up-sampler, which must be drawn alike again."""
    data, settings = mixed_conversations(4), {"max_steps": 2, "per_device_train_batch_size": 2}
    plain_model, model = load(tiny_checkpoint), load(tiny_checkpoint)
    once, twice = count_attention(plain_model), count_attention(model)
    plain = train(plain_model, tmp_path, our_collator, data, **settings)
    if not CHECKPOINTING[name]:
        getattr(model, name)()
    saved = train(model, tmp_path, our_collator, data, **settings, **CHECKPOINTING[name])
    assert len(once) == 3  # a layer of the tower and two of the text model
    assert twice == {layer: 2 * runs for layer, runs in once.items()}
    assert saved.losses() == pytest.approx(plain.losses(), rel=1e-6)
    for ours, expected in zip(saved.steps.gradients, plain.steps.gradients, strict=True):
        assert_same_gradients(ours, expected)


@pytest.mark.client("transformers", "Trainer: activation checkpointing doesn't differentiate a frozen tower")
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_with_a_frozen_tower(reentrant, tiny_checkpoint, our_collator, tmp_path):
    """Its layers run once a step, those of the text model, whose inputs are trained, twice."""
    data, settings = mixed_conversations(4), {"max_steps": 1, "per_device_train_batch_size": 2}
    checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    runs = []
    for options in ({}, checkpointing):
        model = load(tiny_checkpoint, dropout=False)
        model.requires_grad_(False).model.visual.projector.window_attention.requires_grad_(True)
        counts = count_attention(model)
        runs.append((train(model, tmp_path, our_collator, data, **settings, **options), counts))
    (plain, once), (saved, calls) = runs
    assert calls == {layer: runs * (1 if "vision_tower" in layer else 2) for layer, runs in once.items()}
    assert saved.losses() == plain.losses()
    assert_same_gradients(saved.steps.gradients[0], plain.steps.gradients[0], 0)


@pytest.mark.client("transformers", "Trainer: `torch_compile` trains with the same losses, also where shapes change")
def test_torch_compile(tiny_checkpoint, our_collator, tmp_path):
    """Also without an image. On a CPU, inductor takes minutes to compile what aot_eager passes on to it."""
    image = mixed_conversations(1)[0]["images"][0].crop((0, 0, 56, 56))
    data = [make_conversation(text, "it is red", [image]) for text in ("Where is red?", "What colour is top left?")]
    data.append(make_conversation("Where is red?", "there", []))
    settings = {"max_steps": 3, "per_device_train_batch_size": 1}
    plain = train(load(tiny_checkpoint, dropout=False), tmp_path, our_collator, data, **settings)
    settings |= {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    compiled = train(load(tiny_checkpoint, dropout=False), tmp_path, our_collator, data, **settings)
    assert isinstance(compiled.model_wrapped, torch._dynamo.OptimizedModule)
    assert torch._dynamo.utils.counters["aot_autograd"]["ok"] > 0
    assert len(compiled.losses()) == 3 and compiled.losses() == pytest.approx(plain.losses(), rel=1e-5)
    for ours, expected in zip(compiled.steps.gradients, plain.steps.gradients, strict=True):
        assert_same_gradients(ours, expected)
