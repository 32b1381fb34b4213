# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The authors' tiny checkpoints, converted: embeddings, logits, loss and greedy answers equal to the recorded ones."""

import gzip
import json
import shutil

import pytest
import torch
from convert_checkpoint import convert_checkpoint
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from llava_uhd_v2_hf.geometry_llava_uhd_v2 import SlicePlan, num_image_tokens


IMAGE = -200  # the released code's mark for an image in input_ids


class Recorded:
    """One recorded checkpoint after conversion to float32, and what the authors' model answered."""

    def __init__(self, folder, work):
        source = work / "source"
        source.mkdir()
        with (
            gzip.open(folder / "checkpoint/model.safetensors.gz") as packed,
            open(source / "model.safetensors", "wb") as target,
        ):
            shutil.copyfileobj(packed, target)
        for name in ("config.json", "generation_config.json"):
            shutil.copyfile(folder / "checkpoint" / name, source / name)
        convert_checkpoint(
            source,
            work / "converted",
            vision_config=folder / "checkpoint/vision_tower_config.json",
            dtype="float32",
            skip_tokenizer=True,
        )
        self.model = AutoModelForImageTextToText.from_pretrained(work / "converted").eval()
        self.image_processor = AutoImageProcessor.from_pretrained(work / "converted")
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


@pytest.fixture(scope="module")
def checkpoints(reference, tmp_path_factory):
    folders = sorted(path for path in (reference / "e2e").iterdir() if path.is_dir())
    assert folders
    return [Recorded(folder, tmp_path_factory.mktemp(folder.name)) for folder in folders]


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
