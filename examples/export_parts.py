# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Exports the model in parts with torch.export, reads them from their files, and answers a question with them alone.

python examples/export_parts.py CHECKPOINT IMAGE QUESTION OUTPUT
"""

import copy
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.integrations.executorch import TorchExportableModuleForDecoderOnlyLM

import llava_uhd_v2_hf  # noqa: F401  registers the model
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan, token_layout


VIEWS = torch.export.Dim("views", min=1, max=64)


def without(module, *names):
    """A copy of a module that lacks some of its parts; a program holds the weights of all parts, read or not."""
    module = copy.copy(module)
    module._modules = {name: part for name, part in module._modules.items() if name not in names}
    return module


class Tower(nn.Module):
    """The vision tower: views of one size, (v, 3, H, W), to features, (v, patches, channels)."""

    def __init__(self, model):
        super().__init__()
        self.encoder = without(model.model.visual, "projector")

    def forward(self, views):
        return self.encoder.encode_views(views)[-1]


class Projector(nn.Module):
    """The projector: features and views of one size to tokens, (v, tokens, text width)."""

    def __init__(self, model):
        super().__init__()
        self.encoder = without(model.model.visual, "vision_tower")

    def forward(self, features, views):
        return self.encoder.project([features], [views])[0]


@torch.no_grad()
def export_tower(model, size):
    views = torch.zeros(2, 3, *size, dtype=model.dtype)
    return torch.export.export(Tower(model), (views,), dynamic_shapes=({0: VIEWS},))


@torch.no_grad()
def export_projector(model, size, views=1):
    """For so many views, in the fast order; with None for any number of views, in the plain order, which is slower."""
    config = model.config.vision_config
    patches = (size[0] // config.patch_size) * (size[1] // config.patch_size)
    features = torch.zeros(views or 2, patches, config.hidden_size, dtype=model.dtype)
    pixels = torch.zeros(views or 2, 3, *size, dtype=model.dtype)
    shapes = None if views else ({0: VIEWS}, {0: VIEWS})
    return torch.export.export(Projector(model), (features, pixels), dynamic_shapes=shapes)


@torch.no_grad()
def export_embeddings(model):
    ids = torch.zeros(1, 2, dtype=torch.long)
    return torch.export.export(model.get_input_embeddings(), (ids,), dynamic_shapes=({1: torch.export.Dim.AUTO},))


@torch.no_grad()
def export_text_step(model, cache_length):
    """Embeddings of some positions, and these positions, to logits; the program holds a cache of that length."""
    model.generation_config.update(use_cache=True, cache_implementation="static")
    text_model = without(model)
    text_model.model = without(model.model, "visual")
    step = TorchExportableModuleForDecoderOnlyLM(text_model, batch_size=1, max_cache_len=cache_length)
    length = torch.export.Dim("length", max=cache_length - 1)
    return step.export(
        inputs_embeds=torch.zeros(1, 2, model.config.text_config.hidden_size, dtype=model.dtype),
        cache_position=torch.arange(2),
        dynamic_shapes={"inputs_embeds": {1: length}, "cache_position": {0: length}},
        strict=False,
    )


def encode_image(programs, model_config, patches, image_size):
    """As `get_image_features` for one image: (patches, numbers) and a row of `image_sizes` to (tokens, d)."""
    side = model_config.vision_config.patch_size
    plan = SlicePlan.from_image_size(image_size.tolist(), side)
    tokens = []
    for height, width in plan.view_sizes:
        rows, columns = height // side, width // side
        view, patches = patches[: rows * columns], patches[rows * columns :]
        view = view.view(rows, columns, 3, side, side).permute(2, 0, 3, 1, 4).reshape(1, 3, height, width)
        features = programs[f"tower-{height}x{width}"](view)
        tokens.append(programs[f"projector-{height}x{width}"](features, view)[0])
    separators = torch.tensor([[model_config.slice_separator_id, model_config.row_separator_id]])
    order = token_layout(plan.grid, tuple(model_config.projector_config.query_grid), model_config.token_layout)
    return torch.cat([*tokens, programs["embeddings"](separators)[0]])[list(order)]


def answer(programs, model_config, inputs, count, last):
    """The greedy answer to one prompt with images: so many ids, or as many as there are up to the id `last`."""
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    images = [encode_image(programs, model_config, *image) for image in zip(pixels, inputs["image_sizes"])]
    embeds = programs["embeddings"](ids)
    embeds[ids == model_config.image_token_id] = torch.cat(images)
    positions, said = torch.arange(ids.shape[1]), []
    while True:
        logits = programs["text"](inputs_embeds=embeds, cache_position=positions)[0, -1]
        logits[model_config.image_token_id] = -torch.inf  # it can be read, but not be said
        said.append(logits.argmax())
        if len(said) == count or said[-1] == last:
            return torch.stack(said)
        embeds, positions = programs["embeddings"](said[-1].view(1, 1)), positions[-1:] + 1


def save_parts(model, inputs, folder, cache_length=1024):
    """Saves every program that the images need; those of tower and projector are for one size of views each."""
    parts = {"embeddings": export_embeddings(model)}
    for row in inputs["image_sizes"].tolist():
        for size in set(SlicePlan.from_image_size(row, model.config.vision_config.patch_size).view_sizes):
            parts[f"tower-{size[0]}x{size[1]}"] = export_tower(model, size)
            parts[f"projector-{size[0]}x{size[1]}"] = export_projector(model, size)
    parts["text"] = export_text_step(model, cache_length)
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in parts.items():
        torch.export.save(program, folder / f"{name}.pt2")


def load_parts(folder):
    return {path.stem: torch.export.load(path).module() for path in folder.glob("*.pt2")}


@torch.no_grad()
def main(checkpoint, image, question, output):
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(checkpoint),
        AutoProcessor.from_pretrained(checkpoint),
    )
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=Image.open(image), return_tensors="pt").to(model.dtype)
    save_parts(model, inputs, Path(output), cache_length=inputs["input_ids"].shape[1] + 64)
    said = answer(load_parts(Path(output)), model.config, inputs, 64, processor.tokenizer.eos_token_id)
    print(processor.decode(said, skip_special_tokens=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
