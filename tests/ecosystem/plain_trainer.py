# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Runs of transformers' own `Trainer`: conversations, a collator as users write them, what each step computed."""

import random

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, Trainer, TrainerCallback, TrainingArguments

from tests.support.finetune_data import QUESTIONS, draw_image


ANSWERS = ("red", "it is at the bottom right of this image", "no", "green, and the other one is purple")
SIZES = ((112, 112), (112, 56), (40, 56))  # of images, in pixels: 2x2 slices, two slices, none


class UserCollator:
    """A batch by the processor alone, as users write it."""

    def __init__(self, processor):
        self.processor = processor

    def __call__(self, samples):
        images = [sample["images"] for sample in samples]
        batch = self.processor.apply_chat_template(
            [sample["messages"] for sample in samples],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            return_tensors="pt",
            processor_kwargs={"padding": True} | ({"images": images} if any(images) else {}),
        )
        answers = torch.as_tensor(batch.pop("assistant_masks")).bool()
        batch["labels"] = batch["input_ids"].masked_fill(~answers, -100)
        return batch


class Steps(TrainerCallback):
    """The gradients of every step, and the number of samples and of images of every batch."""

    def __init__(self):
        self.gradients, self.batches = [], []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        parameters = model.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in parameters if p.grad is not None})

    def before_forward(self, module, args, inputs):
        self.batches.append((len(inputs["input_ids"]), len(inputs.get("image_sizes", ()))))


class RecordedTrainer(Trainer):
    """`Trainer`, with `steps`."""

    def __init__(self, model, args, **options):
        self.steps = Steps()
        super().__init__(model, args, callbacks=[self.steps], **options)
        model.register_forward_pre_hook(self.steps.before_forward, with_kwargs=True)

    def losses(self):
        return {entry["step"]: entry["loss"] for entry in self.state.log_history if "loss" in entry}


def load(folder, dropout=True):
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    return model


def make_arguments(folder, **settings):
    """Samples in their order, gradients as they are, every loss logged."""
    settings = {"learning_rate": 1e-3, "max_grad_norm": 0, "logging_steps": 1, "save_strategy": "no"} | settings
    return TrainingArguments(
        output_dir=str(folder),
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )


def make_conversation(question, answer, images):
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    answered = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return {"messages": [{"role": "user", "content": content}, answered], "images": list(images)}


def mixed_conversations(number=8):
    """With one, two and no images, of several sizes, and with answers of several lengths."""
    source, samples = random.Random(0), []
    for index in range(number):
        images = [draw_image(source)[0].crop((0, 0, *SIZES[(index + own) % 3])) for own in range((1, 2, 0)[index % 3])]
        samples.append(make_conversation(QUESTIONS[index % 4], ANSWERS[index * 3 % 4], images))
    return samples


def assert_same_gradients(ours, expected, tolerance=1e-5):
    """Equal but for rounding, relative to the largest gradient of each parameter."""
    assert ours.keys() == expected.keys() and ours
    limits = {name: tolerance * max(gradient.abs().max().item(), 1e-2) for name, gradient in expected.items()}
    differences = {name: (ours[name] - gradient).abs().max().item() for name, gradient in expected.items()}
    assert not {name: (value, limits[name]) for name, value in differences.items() if not value <= limits[name]}
