# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""How many tokens samples have, before an image is decoded, and batches of samples that are alike."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..model.processing_llava_uhd_v2 import LlavaUhdV2Processor
from ..utils.seeds import generator
from .labels import TEMPLATE_ERRORS
from .samples import ConversationDataset


def count_tokens(
    messages: Sequence[Mapping[str, Any]],
    image_sizes: Sequence[tuple[int, int]],
    processor: LlavaUhdV2Processor,
    max_slices: int | None = None,
) -> tuple[int, int]:
    """The (text, image) tokens of a sample, as [`ConversationCollator`] would make them of it, uncut.

    Args:
        messages: of the sample.
        image_sizes: (height, width) of its images, in pixels.
        processor: with the chat template.
        max_slices: as of the collator.
    """
    prompt = processor.apply_chat_template(list(messages))
    marks = [processor.image_token] * len(image_sizes)
    text = processor.get_text_with_replacements([prompt], marks)[0][0]
    # the tokenizer's limit is not this one, and would only make it warn
    of_text = len(processor.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) - len(marks)
    if not image_sizes:
        return of_text, 0
    settings = {} if max_slices is None else {"max_slices": max_slices}
    return of_text, sum(processor._get_num_multimodal_tokens(list(image_sizes), **settings)["num_image_tokens"])


class _TokenCounts(Dataset):
    """The (text, image) tokens of the samples of a data set."""

    def __init__(self, dataset: ConversationDataset, processor: LlavaUhdV2Processor, max_slices: int | None):
        self.dataset, self.processor, self.max_slices = dataset, processor, max_slices

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> tuple[int, int]:
        sample = self.dataset.located(position)
        sizes = self.dataset.image_sizes(sample, position)
        try:
            return count_tokens(sample["messages"], sizes, self.processor, self.max_slices)
        except TEMPLATE_ERRORS as error:
            raise ValueError(f"{sample['name']} can't be used: {error}") from error


def measure_lengths(
    dataset: ConversationDataset, processor: LlavaUhdV2Processor, *, num_workers: int = 0
) -> np.ndarray:
    """The (text, image) tokens of every sample: (n, 2), the `max_slices` being the data's. No image is decoded.

    Args:
        dataset: the samples.
        processor: with the chat template.
        num_workers: processes that share the work; 0 for this one.

    Raises:
        ValueError: naming the sample, if it or the header of an image can't be read.
    """
    counts = _TokenCounts(dataset, processor, dataset.data.max_slices)
    loader: DataLoader = DataLoader(counts, batch_size=256, num_workers=num_workers, collate_fn=np.array)
    return np.concatenate(list(loader))


class ModalityLengthSampler(Sampler[int]):
    """An order of samples in which those of a step are of about one length, and with images or without.

    As in the released fine-tuning: samples with images and samples without are grouped by length apart, and the steps
    are shuffled. What is left of the two kinds makes the last steps. Every process takes the same order, and
    accelerate's data loader shares it out, batch by batch.

    Args:
        lengths: tokens of each sample.
        has_images: whether it has images.
        step_size: samples of a step, of all processes together.
        seed: of the order; another one for every epoch, see `set_epoch`.

    Raises:
        ValueError: if `lengths` and `has_images` are not of the same number of samples.
    """

    def __init__(self, lengths: Sequence[int], has_images: Sequence[bool], step_size: int, seed: int = 0):
        if len(lengths) != len(has_images):
            raise ValueError(f"There are {len(lengths)} `lengths` and {len(has_images)} `has_images`.")
        self.lengths = np.asarray(lengths)
        self.has_images = np.asarray(has_images, dtype=bool)
        self.step_size, self.seed, self.epoch = step_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch's order comes next; accelerate's data loader calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        source = generator(self.seed, self.epoch)
        steps: list[list[int]] = []
        rest: list[int] = []
        for members in (np.flatnonzero(self.has_images), np.flatnonzero(~self.has_images)):
            if not len(members):
                continue
            lengths = self.lengths[members].tolist()
            order = members[get_length_grouped_indices(lengths, self.step_size, generator=source)].tolist()
            whole = len(order) - len(order) % self.step_size
            steps += [order[start : start + self.step_size] for start in range(0, whole, self.step_size)]
            rest += order[whole:]
        for number in torch.randperm(len(steps), generator=source).tolist():
            yield from steps[number]
        yield from rest


__all__ = ["ModalityLengthSampler", "count_tokens", "measure_lengths"]
