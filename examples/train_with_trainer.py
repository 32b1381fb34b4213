"""Fine-tunes a checkpoint with a `Trainer` of your own: only the collator comes from this package.

python examples/train_with_trainer.py CHECKPOINT SAMPLES OUTPUT [MAX_STEPS]
"""

import sys

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments

import llava_uhd_v2_hf  # noqa: F401  registers the model
from llava_uhd_v2_hf.data.collation import ConversationCollator
from llava_uhd_v2_hf.data.mixtures import ConversationData
from llava_uhd_v2_hf.data.samples import ConversationDataset


checkpoint, samples, output = sys.argv[1:4]
max_steps = int(sys.argv[4]) if len(sys.argv) > 4 else -1

model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
processor = AutoProcessor.from_pretrained(checkpoint)
model.requires_grad_(False)
model.model.visual.projector.window_attention.requires_grad_(True)  # train what you like

arguments = TrainingArguments(
    output_dir=output,
    remove_unused_columns=False,  # the collator takes whole samples
    per_device_train_batch_size=2,
    gradient_accumulation_steps=4,
    learning_rate=1e-4,
    max_steps=max_steps,
    logging_steps=1,
    bf16=torch.cuda.is_available(),
    report_to="none",
)
trainer = Trainer(
    model,
    arguments,
    train_dataset=ConversationDataset(ConversationData(source=samples), seed=arguments.seed),
    data_collator=ConversationCollator(processor, max_length=4096),
)
trainer.train()
trainer.save_model(output)
processor.save_pretrained(output)
