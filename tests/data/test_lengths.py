# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Token counts without decoding, and the order of samples by modality and length."""

import json

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from llava_uhd_v2_hf.data.collation import ConversationCollator
from llava_uhd_v2_hf.data.lengths import ModalityLengthSampler, measure_lengths
from llava_uhd_v2_hf.data.mixtures import ConversationData
from llava_uhd_v2_hf.data.sample_images import image_size
from llava_uhd_v2_hf.data.samples import ConversationDataset
from llava_uhd_v2_hf.model.chat_templates_llava_uhd_v2 import PLAIN_TEMPLATE
from tests.support.recorded_formats import FORMATS, build_processor


ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Samples with no image, one, or two; one picture lies on its side."""
    folder = tmp_path_factory.mktemp("lengths")
    gradient = Image.linear_gradient("L")
    gradient.resize((60, 40)).save(folder / "small.png")
    gradient.resize((1000, 700)).save(folder / "textvqa.jpg")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    gradient.resize((900, 300)).save(folder / "turned.jpg", exif=exif)
    images = [[], ["small.png"], ["textvqa.jpg", "small.png"], ["turned.jpg"], [], ["textvqa.jpg"]]
    records = []
    for number, names in enumerate(images):
        question = "\n".join(["<image>"] * len(names) + ["Why?" * number]) or "Hi"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "So. " * (number + 1)}]
        records.append({"conversations": turns, "image": names})
    (folder / "samples.json").write_text(json.dumps(records))
    return str(folder / "samples.json")


def test_sizes_are_upright(source):
    folder = source.removesuffix("samples.json")
    assert image_size(f"{folder}turned.jpg") == (900, 300)
    assert image_size(f"{folder}textvqa.jpg") == (700, 1000)


@pytest.mark.parametrize("name", ["v1", "qwen_1_5"])
@pytest.mark.parametrize("max_slices", [None, 1, 7])
@pytest.mark.parametrize("pre_resize", [None, "released-sequential"])
def test_lengths_are_the_collator_s(source, reference, name, max_slices, pre_resize):
    """As many text and image tokens as the batch of each sample alone has."""
    assert name in FORMATS
    processor = build_processor(reference, name)
    dataset = ConversationDataset(ConversationData(source=source, max_slices=max_slices, pre_resize=pre_resize))
    lengths = measure_lengths(dataset, processor)
    collate = ConversationCollator(processor, max_slices=max_slices, max_length=10**6)
    for index, (of_text, of_images) in enumerate(lengths):
        ids = collate([dataset[index]])["input_ids"][0]
        of_image = int((ids == processor.image_token_id).sum())
        assert (of_text, of_images) == (len(ids) - of_image, of_image)


def test_workers_measure_the_same(source, reference):
    processor = build_processor(reference, "v1")
    dataset = ConversationDataset(ConversationData(source=source))
    assert np.array_equal(measure_lengths(dataset, processor, num_workers=2), measure_lengths(dataset, processor))


def test_a_sample_that_the_template_refuses_is_named(source, reference):
    processor = build_processor(reference, "v1")
    processor.chat_template = PLAIN_TEMPLATE
    dataset = ConversationDataset(ConversationData(source=source))
    with pytest.raises(ValueError, match=r"samples.json:\d+, record .* can't be used: .*needs an image"):
        measure_lengths(dataset, processor)


samples = st.lists(st.tuples(st.integers(1, 5000), st.booleans()), min_size=1, max_size=200)


@settings(max_examples=60, deadline=None)
@given(samples=samples, step_size=st.integers(1, 16), seed=st.integers(0, 3), epoch=st.integers(0, 3))
def test_every_sample_once_and_steps_of_one_modality(samples, step_size, seed, epoch):
    lengths, has_images = zip(*samples)
    sampler = ModalityLengthSampler(lengths, has_images, step_size, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(samples))) and len(sampler) == len(samples)
    assert list(sampler) == order
    whole = sum(kind // step_size for kind in (sum(has_images), len(samples) - sum(has_images)))
    for start in range(0, whole * step_size, step_size):
        assert len({has_images[index] for index in order[start : start + step_size]}) == 1


def test_a_step_is_of_one_length():
    lengths = np.random.default_rng(0).integers(1, 4000, 4000)
    has_images = lengths % 2 == 0
    order = list(ModalityLengthSampler(lengths, has_images, 16))
    spreads = [np.ptp(lengths[order[start : start + 16]]) for start in range(0, 3900, 16)]
    assert np.median(spreads) < 200  # of 4000 at random: about 3500


def test_epochs_differ_and_the_seed_decides():
    lengths = list(range(1, 101))
    sampler = ModalityLengthSampler(lengths, [True] * 100, 4, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(ModalityLengthSampler(lengths, [True] * 100, 4, seed=2)) != first
    with pytest.raises(ValueError, match="There are 2 `lengths` and 1 `has_images`"):
        ModalityLengthSampler([1, 2], [True], 4)


def test_ranks_share_a_step():
    """Accelerate's loaders of three processes: together every sample once, and in a step one modality."""
    lengths, has_images = list(range(1, 49)), [index % 2 == 0 for index in range(48)]
    ranks = []
    for rank in range(3):
        sampler = ModalityLengthSampler(lengths, has_images, step_size=6)
        loader = DataLoader(torch.arange(48), batch_size=2, sampler=sampler)
        loader = prepare_data_loader(loader, num_processes=3, process_index=rank, put_on_device=False)
        loader.set_epoch(2)
        assert sampler.epoch == 2
        ranks.append(list(loader.base_dataloader))
    steps = [torch.cat(batches).tolist() for batches in zip(*ranks)]
    assert sorted(sum(steps, [])) == list(range(48))
    assert all(len({has_images[index] for index in step}) == 1 for step in steps)
