# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A user's script: asks a checkpoint about images, looks at its settings, and trains a step. Type checkers pass it.

python user_script.py CHECKPOINT SAMPLES OUTPUT
"""

import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    Trainer,
    TrainingArguments,
)

from llava_uhd_v2_hf import (
    LlavaUhdV2Config,
    LlavaUhdV2ForConditionalGeneration,
    LlavaUhdV2ImageProcessor,
    LlavaUhdV2Processor,
    LlavaUhdV2ProjectorConfig,
)
from llava_uhd_v2_hf.data.collation import ConversationCollator
from llava_uhd_v2_hf.data.mixtures import ConversationData
from llava_uhd_v2_hf.data.samples import ConversationDataset
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import num_image_tokens, plan_slices


def ask(folder: str, image: Image.Image, question: str) -> str:
    model = LlavaUhdV2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = LlavaUhdV2Processor.from_pretrained(folder)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=image, text=prompt, return_tensors="pt", max_slices=4)
    model.fold_projector()
    features = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
    assert len(features.pooler_output or []) == 1
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    answer: str = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answer


def ask_twice(folder: str, image: Image.Image, question: str) -> list[str]:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [[{"role": "user", "content": content}]] * 2,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    answers: list[str] = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def count_tokens(folder: str, paths: list[Path]) -> int:
    """Image tokens of files, from their sizes alone."""
    config = LlavaUhdV2Config.from_pretrained(folder)
    image_processor = LlavaUhdV2ImageProcessor.from_pretrained(folder)
    query_grid, total = config.projector_config.query_grid, 0
    for path in paths:
        with Image.open(path) as image:
            plan = plan_slices(
                image.height,
                image.width,
                max_slices=image_processor.max_slices,
                slice_resolution=image_processor.slice_resolution,
                patch_size=image_processor.patch_size,
            )
        assert plan == image_processor.slice_plan(image.height, image.width)
        total += num_image_tokens(plan, query_grid=query_grid, layout=config.token_layout)
    return total


def describe(folder: str, paths: list[Path]) -> dict[str, Any]:
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, LlavaUhdV2Config)
    smaller = LlavaUhdV2Config(
        vision_config=config.vision_config,
        text_config=config.text_config.to_dict(),
        projector_config=LlavaUhdV2ProjectorConfig(levels=[0], query_grid=(2, 2), upsampler="bilinear"),
        image_token_id=config.image_token_id,
        row_separator_id=config.row_separator_id,
        slice_separator_id=config.slice_separator_id,
        token_layout="sequential",
    )
    overview_alone = LlavaUhdV2ImageProcessor(max_slices=1, slice_resolution=56, image_mean=[0.5] * 3)
    batch = overview_alone([str(path) for path in paths], return_tensors="pt")
    loaded = AutoImageProcessor.from_pretrained(folder)
    return {
        "levels": config.projector_config.levels,
        "fewer levels": smaller.projector_config.levels,
        "width": config.vision_config.hidden_size + config.text_config.hidden_size,
        "rows": batch["image_sizes"].tolist(),
        "mean": loaded.image_mean,
    }


def train(folder: str, samples: str, output: str) -> float:
    model = LlavaUhdV2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    processor = LlavaUhdV2Processor.from_pretrained(folder)
    model.requires_grad_(False)
    model.model.visual.projector.window_attention.requires_grad_(True)
    arguments = TrainingArguments(
        output_dir=output,
        remove_unused_columns=False,
        per_device_train_batch_size=2,
        max_steps=1,
        report_to="none",
        use_cpu=True,
    )
    collator = ConversationCollator(
        processor,
        max_length=512,
        max_slices=processor.image_processor.max_slices,
        label_rule="template",
        unsupervised="drop",
    )
    dataset = ConversationDataset(ConversationData(source=samples), seed=arguments.seed)
    result = Trainer(model, arguments, train_dataset=dataset, data_collator=collator).train()
    model.save_pretrained(output)
    processor.save_pretrained(output)
    return result.training_loss


def main() -> None:
    folder, samples, output = sys.argv[1:]
    paths = sorted(Path(samples).parent.glob("*.png"))[:2]
    with Image.open(paths[0]) as image:
        print("answer:", ask(folder, image, "What colour is top left?"))
        print("answers:", ask_twice(folder, image, "Where is red?"))
    print("tokens:", count_tokens(folder, paths))
    print("settings:", describe(folder, paths))
    print("loss:", train(folder, samples, output))


if __name__ == "__main__":
    main()
