# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The authors' tiny checkpoints, converted in every way: embeddings, logits, loss and greedy answers as recorded."""

import gzip
import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from llava_uhd_v2_hf.conversion.convert import convert_checkpoint
from llava_uhd_v2_hf.conversion.export import export_checkpoint
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan, num_image_tokens


IMAGE = -200  # the released code's mark for an image in input_ids


def write_bin_shards(weights, source):
    """Two .bin shards, the second in the format that cannot be mapped."""
    names = sorted(weights)
    torch.save({name: weights[name] for name in names[::2]}, source / "pytorch_model-00001-of-00002.bin")
    second = {name: weights[name] for name in names[1::2]}
    torch.save(second, source / "pytorch_model-00002-of-00002.bin", _use_new_zipfile_serialization=False)


def write_safetensors_shards(weights, source):
    names = sorted(weights)
    weight_map = {}
    for index in (0, 1, 2):
        shard = {name: weights[name] for name in names[index::3]}
        weight_map |= dict.fromkeys(shard, f"model-0000{index + 1}-of-00003.safetensors")
        save_file(shard, source / f"model-0000{index + 1}-of-00003.safetensors")
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_one_file(weights, source):
    save_file(weights, source / "model.safetensors")


# How the source is written, in which dtype, which dtype is asked for, and whether it goes there and back again.
PATHS = {
    "float32 from bfloat16": (write_one_file, torch.bfloat16, "float32", False),
    "bin shards": (write_bin_shards, torch.bfloat16, "float32", False),
    "safetensors shards": (write_safetensors_shards, torch.bfloat16, "float32", False),
    "bfloat16": (write_one_file, torch.bfloat16, None, False),
    "float16": (write_one_file, torch.float16, None, False),
    "convert, export, convert": (write_one_file, torch.bfloat16, None, True),
}


class Recorded:
    """One recorded checkpoint after conversion, loaded in float32, and what the authors' model answered."""

    def __init__(self, folder, work, path):
        write, source_dtype, dtype, and_back = PATHS[path]
        source, converted = work / "source", work / "converted"
        source.mkdir()
        weights = load(gzip.decompress((folder / "checkpoint/model.safetensors.gz").read_bytes()))
        write({name: tensor.to(source_dtype) for name, tensor in weights.items()}, source)
        for name in ("config.json", "generation_config.json"):
            shutil.copyfile(folder / "checkpoint" / name, source / name)
        options = {"vision_config": folder / "checkpoint/vision_tower_config.json", "skip_tokenizer": True}
        convert_checkpoint(source, converted, dtype=dtype, **options)
        if and_back:
            export_checkpoint(converted, work / "exported")
            shutil.rmtree(converted)
            convert_checkpoint(work / "exported", converted, **options)
        self.model = AutoModelForImageTextToText.from_pretrained(converted, dtype=torch.float32).eval()
        self.image_processor = AutoImageProcessor.from_pretrained(converted)
        self.outputs = json.loads((folder / "outputs.json").read_text())
        self.tensors = load_file(folder / "outputs.safetensors")
        self.folder = folder

    def read_images(self, names):
        """The processed images, and the number of tokens of each."""
        images = [Image.open(self.folder / self.outputs["images"][name]["file"]) for name in names if name]
        if not images:
            return {}, []
        inputs = dict(self.image_processor(images, return_tensors="pt"))
        config = self.model.config
        plans = [SlicePlan.from_image_size(row, config.vision_config.patch_size) for row in inputs["image_sizes"]]
        query_grid = tuple(config.projector_config.query_grid)
        return inputs, [num_image_tokens(plan, query_grid=query_grid, layout=config.token_layout) for plan in plans]

    def expand(self, rows, counts, length, padding):
        """Replaces each recorded image mark by its run of image tokens (in labels: of -100); pads on the right."""
        fill = self.model.config.image_token_id if padding == 0 else padding
        counts = iter(counts)
        expanded = torch.full((len(rows), length), padding)
        for row, ids in zip(expanded, rows):
            tokens = [token for one in ids for token in ([fill] * next(counts) if one == IMAGE else [one])]
            row[: len(tokens)] = torch.tensor(tokens)
        return expanded


QUICK = ("float32 from bfloat16", "convert, export, convert")


@pytest.fixture(
    scope="module",
    params=[pytest.param(path, marks=() if path in QUICK else pytest.mark.slow) for path in PATHS],
)
def checkpoints(request, reference, tmp_path_factory):
    folders = sorted(path for path in (reference / "e2e").iterdir() if path.is_dir())
    assert folders
    return [Recorded(folder, tmp_path_factory.mktemp(folder.name), request.param) for folder in folders]


@torch.no_grad()
def test_embeddings_logits_and_loss_equal_the_recorded_ones(checkpoints):
    for recorded in checkpoints:
        assert recorded.outputs["cases"]
        for case in recorded.outputs["cases"]:
            check_case(recorded, case)


def check_case(recorded, case):
    tensors = {
        name.removeprefix(f"{case['name']}."): tensor
        for name, tensor in recorded.tensors.items()
        if name.startswith(f"{case['name']}.")
    }
    images, counts = recorded.read_images([sample["image"] for sample in case["samples"]])
    ids = [row[mask.bool()].tolist() for row, mask in zip(tensors["input_ids"], tensors["attention_mask"])]
    labels = [
        [IMAGE if token == IMAGE else label for token, label in zip(row, row_labels.tolist())]
        for row, row_labels in zip(ids, tensors["labels"])
    ]
    length = case["merged_length"]
    input_ids = recorded.expand(ids, counts, length, padding=0)
    merged_labels = recorded.expand(labels, counts, length, padding=-100)
    mask = tensors["merged_attention_mask"].bool()
    assert torch.equal(merged_labels, tensors["merged_labels"].long())

    seen = {}
    hook = recorded.model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    outputs = recorded.model(input_ids=input_ids, attention_mask=mask.long(), labels=merged_labels, **images)
    hook.remove()

    close = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(seen["inputs_embeds"][mask], tensors["inputs_embeds"][mask], **close)
    torch.testing.assert_close(outputs.loss.item(), case["loss"], **close)

    vocabulary = recorded.model.config.text_config.vocab_size - 1  # without the image token, which was added
    logits = outputs.logits[..., :vocabulary]
    positions = tensors["logit_positions"].long()
    active = logits[:, positions][..., recorded.outputs["active_ids"]]
    kept = mask[:, positions]
    torch.testing.assert_close(active[kept], tensors["logits_active"][kept], **close)
    torch.testing.assert_close(logits.logsumexp(-1)[mask], tensors["logsumexp"][mask], **close)
    assert torch.equal(logits.argmax(-1)[mask], tensors["argmax"][mask].long())


def test_greedy_answers_equal_the_recorded_ones(checkpoints):
    for recorded in checkpoints:
        for case in recorded.outputs["cases"]:
            for sample in case["generation"]:
                images, counts = recorded.read_images([sample["image"]])
                length = len(sample["prompt_ids"]) + sum(counts) - len(counts)
                input_ids = recorded.expand([sample["prompt_ids"]], counts, length, padding=0)
                expected = sample["new_tokens"]
                answer = recorded.model.generate(
                    input_ids=input_ids,
                    attention_mask=torch.ones_like(input_ids),
                    max_new_tokens=len(expected),
                    do_sample=False,
                    **images,
                )
                assert answer[0, length:].tolist() == expected, (recorded.folder.name, case["name"])
