# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""TRL's DPOTrainer and GRPOTrainer: their losses are ours, and they train what they are told to and nothing else."""

import math
from difflib import SequenceMatcher

import pytest
import torch
from transformers import AutoProcessor
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from tests.ecosystem.trl_data import load, lora_config
from tests.ecosystem.trl_preference_data import (
    freeze_tower,
    log_probs,
    preference_dataset,
    render,
    train_and_compare,
    trained_parameters,
)


MIXED, ONE_IMAGE, SEVERAL, NONE = [2, 1, 0], [0, 3], [1, 4], [2, 5]
PROJECTOR = "model.visual.projector"
BETA = 0.3
CLIP = 0.2
GENERATIONS = 2
SETTINGS = {
    "beta": BETA,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
}


# DPO


def dpo_trainer(model, checkpoint, dataset, output, **options):
    batch = {"per_device_train_batch_size": len(dataset), "per_device_eval_batch_size": len(dataset)}
    return DPOTrainer(
        model,
        args=DPOConfig(output_dir=output, max_steps=2, **batch, **SETTINGS),
        train_dataset=dataset,
        processing_class=AutoProcessor.from_pretrained(checkpoint),
        **options,
    )


@torch.no_grad()
def dpo_loss(trainer, reference, dataset):
    """-log sigmoid(beta * (log-ratio of the chosen answer - log-ratio of the rejected)), the mean over the rows."""
    losses = []
    for row in dataset:
        start = render(trainer.processing_class, row)["input_ids"].shape[1]
        ratios = []
        for answer in (row["chosen"], row["rejected"]):
            inputs = render(trainer.processing_class, row, answer)
            policy, base = (log_probs(model, inputs, start) for model in (trainer.model, reference))
            ratios.append((policy - base).sum())
        losses.append(torch.log1p(torch.exp(-BETA * (ratios[0] - ratios[1]))))
    return torch.stack(losses).mean()


def check_dpo_loss(trainer, reference, dataset):
    """In training mode, which has no dropout either."""
    assert trainer.model.training
    inputs = trainer.data_collator(list(dataset))
    expected = dpo_loss(trainer, reference, dataset)
    assert abs(expected - math.log(2)) > 0.01
    torch.testing.assert_close(trainer.compute_loss(trainer.model, inputs).detach(), expected, rtol=0, atol=1e-5)


@pytest.mark.client(
    "trl", "`DPOTrainer`: LoRA and the whole projector; the reference is the model without its adapter"
)
def test_dpo_with_lora(tiny_checkpoint, tmp_path):
    dataset, peft_config = preference_dataset(MIXED), lora_config(PROJECTOR, lora_alpha=32)
    trainer = dpo_trainer(load(tiny_checkpoint), tiny_checkpoint, dataset, tmp_path, peft_config=peft_config)
    train_and_compare(trainer)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    for rows in (MIXED, ONE_IMAGE, SEVERAL, NONE):
        check_dpo_loss(trainer, load(tiny_checkpoint), preference_dataset(rows))


@pytest.mark.client("trl", "`DPOTrainer`: language model and projector in full; TRL loads the reference by itself")
@pytest.mark.parametrize("by_name", [False, True])
def test_dpo_in_full(tiny_checkpoint, tmp_path, by_name):
    model = str(tiny_checkpoint) if by_name else freeze_tower(load(tiny_checkpoint))
    trainer = dpo_trainer(model, tiny_checkpoint, preference_dataset(MIXED), tmp_path)
    freeze_tower(trainer.model)
    assert type(trainer.ref_model) is type(trainer.model)
    train_and_compare(trainer)
    for rows in (MIXED, NONE):
        check_dpo_loss(trainer, load(tiny_checkpoint), preference_dataset(rows))


@pytest.mark.client("trl", "`DPOTrainer`: a reference model of one's own")
def test_dpo_with_a_reference_model(tiny_checkpoint, tmp_path):
    references = [load(tiny_checkpoint), load(tiny_checkpoint)]
    for reference in references:
        reference.lm_head.weight.data.mul_(1.5)
    dataset, model = preference_dataset(MIXED), freeze_tower(load(tiny_checkpoint))
    trainer = dpo_trainer(model, tiny_checkpoint, dataset, tmp_path, ref_model=references[0])
    expected = dpo_loss(trainer, references[1], dataset)
    train_and_compare(trainer)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), abs=1e-5)
    check_dpo_loss(trainer, references[1], dataset)


@pytest.mark.client("trl", "`DPOTrainer`: rows without images, with a column of images or without")
@pytest.mark.parametrize("columns", [["images"], []])
def test_dpo_of_text(tiny_checkpoint, tmp_path, columns):
    dataset = preference_dataset(NONE).select_columns(["prompt", "chosen", "rejected", *columns])
    lora = lora_config(lora_alpha=32)
    trainer = dpo_trainer(load(tiny_checkpoint), tiny_checkpoint, dataset, tmp_path, peft_config=lora)
    train_and_compare(trainer)
    check_dpo_loss(trainer, load(tiny_checkpoint), trainer.train_dataset)


# GRPO


def likeness(completions, chosen, **columns):
    """A reward: how much an answer is like the one that is wanted."""
    pairs = zip(completions, chosen, strict=True)
    return [SequenceMatcher(None, given[0]["content"], wanted[0]["content"]).ratio() for given, wanted in pairs]


class ComparedGRPOTrainer(GRPOTrainer):
    """Makes of every batch our own loss and gradient, too, and compares."""

    def compare_with(self, reference):
        self.reference, self.num_compared, self.old = reference, 0, {}
        self.prompts = [render(self.processing_class, row) for row in self.train_dataset]

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss, expected = super().compute_loss(model, inputs, *args, **kwargs), self.own_loss(model, inputs)
        assert inputs["advantages"].any()
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
        gradients = torch.autograd.grad(expected, [*trained_parameters(model).values()])
        self.gradient = torch.cat([gradient.flatten() for gradient in gradients])
        return loss

    def training_step(self, model, *args, **kwargs):
        loss = super().training_step(model, *args, **kwargs)
        gradient = torch.cat([parameter.grad.flatten() for parameter in trained_parameters(model).values()])
        assert self.gradient.norm() > 0.1
        assert (gradient - self.gradient).norm() < 1e-4 * self.gradient.norm()
        self.num_compared += 1
        return loss

    def own_loss(self, model, inputs):
        """The clipped objective with TRL's advantages: the mean over each answer's tokens, then over the answers."""
        losses = []
        for index, advantage in enumerate(inputs["advantages"]):
            prompt, answer = (
                inputs[f"{part}_ids"][index, inputs[f"{part}_mask"][index] == 1] for part in ("prompt", "completion")
            )
            [ours] = [given for given in self.prompts if torch.equal(given["input_ids"][0], prompt)]
            ids = torch.cat([prompt, answer])[None]
            whole = {**ours, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            now = log_probs(model, whole, len(prompt))
            # an answer comes up first under the weights that it was sampled with
            ratio = torch.exp(now - self.old.setdefault(tuple(ids[0].tolist()), now.detach()))
            objective = torch.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
            with torch.no_grad():
                distance = log_probs(self.reference, whole, len(prompt))
            distance = distance - now
            divergence = ratio * (distance.exp() - distance - 1)  # TRL corrects it for the sampling
            losses.append((self.beta * divergence - objective).mean())
        return torch.stack(losses).mean()


def grpo_trainer(model, checkpoint, dataset, output, peft_config=None, **options):
    settings = {"max_steps": 3, "num_iterations": 2, "per_device_train_batch_size": GENERATIONS * len(dataset)}
    fixed = {"num_generations": GENERATIONS, "max_completion_length": 8, "loss_type": "grpo", "disable_dropout": True}
    trainer = ComparedGRPOTrainer(
        model,
        likeness,
        args=GRPOConfig(output_dir=output, max_grad_norm=0.0, **fixed, **SETTINGS | settings | options),
        train_dataset=dataset,
        processing_class=AutoProcessor.from_pretrained(checkpoint),
        peft_config=peft_config,
    )
    trainer.compare_with(load(checkpoint))
    return trainer


@pytest.mark.client("trl", "`GRPOTrainer`: LoRA and the whole projector, with and without a reference")
@pytest.mark.parametrize(("rows", "beta"), [(MIXED, BETA), (MIXED, 0.0), (SEVERAL, BETA)])
def test_grpo_with_lora(tiny_checkpoint, tmp_path, rows, beta):
    dataset, peft_config = preference_dataset(rows), lora_config(PROJECTOR, lora_alpha=32)
    trainer = grpo_trainer(load(tiny_checkpoint), tiny_checkpoint, dataset, tmp_path, peft_config, beta=beta)
    train_and_compare(trainer)
    assert trainer.num_compared == 3
    assert beta == 0 or trainer.state.log_history[1]["kl"] > 0.01


@pytest.mark.client("trl", "`GRPOTrainer`: language model and projector in full; TRL loads the reference by itself")
def test_grpo_in_full(tiny_checkpoint, tmp_path):
    model, dataset = freeze_tower(load(tiny_checkpoint)), preference_dataset(MIXED)
    trainer = grpo_trainer(model, tiny_checkpoint, dataset, tmp_path)
    assert type(trainer.ref_model) is type(trainer.model)
    train_and_compare(trainer)
    assert trainer.num_compared == 3


@pytest.mark.client("trl", "`GRPOTrainer`: a generation in several batches, one of them without images")
def test_grpo_divides_what_it_generates(tiny_checkpoint, tmp_path):
    dataset, peft_config = preference_dataset([1, 2]), lora_config(PROJECTOR)
    batches = {"steps_per_generation": 2, "per_device_train_batch_size": 2, "max_steps": 2, "num_iterations": 1}
    trainer = grpo_trainer(
        load(tiny_checkpoint), tiny_checkpoint, dataset, tmp_path, peft_config, learning_rate=0.0, **batches
    )
    trainer.train()
    assert trainer.num_compared == 2


@pytest.mark.client("trl", "`GRPOTrainer`: rows without images, with a column of images or without")
@pytest.mark.parametrize("columns", [["images"], []])
def test_grpo_of_text(tiny_checkpoint, tmp_path, columns):
    dataset = preference_dataset(NONE).select_columns(["prompt", "chosen", *columns])
    trainer = grpo_trainer(load(tiny_checkpoint), tiny_checkpoint, dataset, tmp_path, lora_config(lora_alpha=32))
    train_and_compare(trainer)
    assert trainer.num_compared == 3
