# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Trains a LoRA adapter with TRL's SFTTrainer, from the JSON of conversations that `llava-uhd-v2 train` takes.

python examples/sft_with_trl.py CHECKPOINT SAMPLES OUTPUT [MAX_STEPS]
"""

import re
import sys

import torch
from datasets import Dataset, Image, List
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

import llava_uhd_v2_hf  # noqa: F401  registers the model
from llava_uhd_v2_hf.data.mixtures import ConversationData
from llava_uhd_v2_hf.data.samples import ConversationDataset


def entries(content):
    """A message's text and the places of its images, as TRL takes them."""
    if not isinstance(content, str):
        return content
    parts = [part for part in re.split(r"(<image>)\n?", content) if part]
    return [{"type": "image"} if part == "<image>" else {"type": "text", "text": part} for part in parts]


def to_row(sample):
    messages = [{"role": message["role"], "content": entries(message["content"])} for message in sample["messages"]]
    return {"messages": messages, "images": sample["images"]}


checkpoint, samples, output = sys.argv[1:4]
max_steps = int(sys.argv[4]) if len(sys.argv) > 4 else -1

conversations = ConversationDataset(ConversationData(source=samples))
rows = [to_row(conversations.located(position)) for position in range(len(conversations))]

processor = AutoProcessor.from_pretrained(checkpoint)
arguments = SFTConfig(
    output_dir=output,
    assistant_only_loss=True,  # without it, image tokens are trained on too
    max_length=None,  # TRL's 1024 is less than the tokens of an image of seven slices
    per_device_train_batch_size=2,
    gradient_accumulation_steps=4,
    learning_rate=1e-4,
    max_steps=max_steps,
    logging_steps=1,
    bf16=torch.cuda.is_available(),
    report_to="none",
)
adapter = LoraConfig(
    r=64,
    lora_alpha=128,
    lora_dropout=0.05,
    # names alone, such as "q_proj", would be found in the vision tower too
    target_modules=r"model\.language_model\..*\.(q|k|v|o|gate|up|down)_proj",
    modules_to_save=["window_attention"],  # of the projector: trained in full
    task_type="CAUSAL_LM",
)
trainer = SFTTrainer(
    AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32),
    arguments,
    train_dataset=Dataset.from_list(rows).cast_column("images", List(Image())),
    processing_class=processor,
    peft_config=adapter,
)
trainer.train()
trainer.save_model(output)
