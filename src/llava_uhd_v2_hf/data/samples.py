# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The samples of fine-tuning by number: records of one source or of several, checked before the first step.

Everything random about a sample depends on the seed and on the sample's number alone.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers.utils import logging

from ..model.image_loading_llava_uhd_v2 import Alpha
from ..utils.seeds import generator
from .conversations import read_conversation
from .mixtures import ConversationData, MixtureSource, read_sources
from .records import Records
from .sample_images import file_bytes, file_name, is_missing, locate_image, open_resized, resized_size
from .sources import find_source


logger = logging.get_logger(__name__)
_SHOWN_PROBLEMS = 5


class ConversationDataset(Dataset):
    """Conversations with their images, for [`ConversationCollator`].

    A sample has `messages`, `images` (opened, not decoded, unless they were resized) and `name`, its place and
    id. The records are checked when the data set is made, and their image files are looked for; rows with embedded
    images are checked when they are reached.

    Args:
        data: the sources, and what happens to samples that can't be used.
        seed: of what is drawn from a source, and of the resizing.
        alpha: what becomes of the transparency of images that are resized: the image processor's `alpha`.

    Attributes:
        skipped (`list[str]`): samples that were left out because an image file is missing, with place and id.
        images_crc32 (`int`): checksum of the sizes of all image files.

    Raises:
        ValueError: if a source can't be read, or records can't be used; the first few are named with file, line and
            field. From `dataset[index]`, if an image can't be opened.
    """

    def __init__(self, data: ConversationData, seed: int = 0, alpha: Alpha = "drop"):
        if data.streaming:
            raise ValueError("`data.streaming`=true is for `ConversationStream`.")
        self.data, self.seed, self.alpha = data, seed, alpha
        self.sources = read_sources(data)
        self.records: list[Records] = [
            find_source(source.path).open(source.path, source.split) for source in self.sources
        ]
        drawn = [
            draw_records(len(records), wanted_samples(source, len(records)), (seed, number))
            for number, (source, records) in enumerate(zip(self.sources, self.records))
        ]
        numbers = np.repeat(np.arange(len(drawn)), [len(indices) for indices in drawn])
        self.entries = np.stack([numbers, np.concatenate(drawn)], axis=1)
        self.skipped: list[str] = []
        self.images_crc32 = 0
        self._check_records()

    def _check_records(self) -> None:
        """Reads the records that name their images, and leaves out those with missing ones, if that is allowed."""
        problems: list[str] = []
        usable = np.ones(len(self.entries), dtype=bool)
        for position, source in enumerate(self.entries[:, 0]):
            if self.records[source].embed_images:
                continue
            try:
                sample = self.located(position)
            except ValueError as error:
                problems.append(str(error))
                continue
            missing = describe_missing(sample)
            if missing and self.data.missing_images == "skip":
                usable[position] = False
                self.skipped.append(missing)
            elif missing:
                problems.append(missing)
            else:
                sizes = [file_bytes(image) for image in sample["images"]]
                self.images_crc32 = zlib.crc32(repr(sizes).encode(), self.images_crc32)
        if problems:
            raise ValueError(_describe_problems(problems))
        self.entries = self.entries[usable]
        if self.skipped:
            logger.warning(f"{len(self.skipped)} samples are left out, such as {self.skipped[0]}")
        if not len(self.entries):
            raise ValueError(f"`data.source`={self.data.source} has no sample whose images are all there.")

    def __len__(self) -> int:
        return len(self.entries)

    def located(self, position: int) -> dict[str, Any]:
        """A sample before its images are opened, see [`locate_sample`]."""
        source, index = map(int, self.entries[position])
        place, record = self.records[source][index]
        return locate_sample(place, record, self.sources[source])

    def image_sizes(self, sample: dict[str, Any], position: int) -> list[tuple[int, int]]:
        """(height, width) in pixels of each image of a sample, as the processor will see it; from the headers.

        Args:
            sample: of [`~ConversationDataset.located`].
            position: of the sample.

        Raises:
            ValueError: naming the sample, if a header can't be read.
        """
        try:
            return [
                resized_size(image, name, self.data.pre_resize, generator(self.seed, position, number))
                for number, (image, name) in enumerate(zip(sample["images"], sample["file_names"]))
            ]
        except ValueError as error:
            raise ValueError(f"{sample['name']}: {error}") from error

    def __getitem__(self, position: int) -> dict[str, Any]:
        return open_sample(self.located(position), self.data.pre_resize, (self.seed, position), self.alpha)


def wanted_samples(source: MixtureSource, available: int) -> int:
    """Samples that an epoch has of a source with so many records."""
    if source.samples is not None:
        return source.samples
    return available if source.weight is None else max(round(available * source.weight), 1)


def draw_records(available: int, wanted: int, seeds: Iterable[int]) -> np.ndarray:
    """Numbers of records, each as often as the others or once more; all in their order, if all are wanted."""
    if wanted == available:
        return np.arange(available)
    source = np.random.default_rng(tuple(seeds))
    passes = [source.permutation(available) for _ in range(-(-wanted // available))]
    return np.concatenate(passes)[:wanted]


def locate_sample(place: str, record: Any, source: MixtureSource) -> dict[str, Any]:
    """A record as a conversation: `messages`, `images` (paths, URLs or bytes), their `file_names`, and `name`.

    Raises:
        ValueError: naming its place and id, if it can't be used.
    """
    name = name_record(place, record)
    try:
        sample = read_conversation(record, source.prompt)
        images = [locate_image(image, source.images or "") for image in sample["images"]]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    file_names = [file_name(image) for image in sample["images"]]
    return {"messages": sample["messages"], "images": images, "file_names": file_names, "name": name}


def name_record(place: str, record: Any) -> str:
    """Names a record for messages: its place, and its `id` if it has one."""
    identity = record.get("id") if isinstance(record, Mapping) else None
    return place if identity is None else f"{place} (id {str(identity)[:60]})"


def describe_missing(sample: dict[str, Any]) -> str | None:
    """Which image files of a located sample are not there; None if all are."""
    missing = [image for image in sample["images"] if is_missing(image)]
    return f"{sample['name']}: `image`: there is no file {', '.join(missing)}" if missing else None


def open_sample(
    sample: dict[str, Any], pre_resize: str | None, seeds: Sequence[int], alpha: Alpha = "drop"
) -> dict[str, Any]:
    """A located sample with its images opened, and resized by the released rule if one is asked for.

    Args:
        sample: of [`locate_sample`].
        pre_resize: of [`ConversationData`].
        seeds: decide which images are resized.
        alpha: of [`ConversationDataset`].

    Raises:
        ValueError: naming the sample and the image, if one can't be read.
    """
    images = []
    for number, (image, name) in enumerate(zip(sample["images"], sample["file_names"])):
        try:
            images.append(open_resized(image, name, pre_resize, generator(*seeds, number), alpha))
        except ValueError as error:
            shown = f" ({name})" if name else ""
            raise ValueError(f"{sample['name']}: image {number}{shown} can't be used: {error}") from error
    return {"messages": sample["messages"], "images": images, "name": sample["name"]}


def _describe_problems(problems: list[str]) -> str:
    more = len(problems) - _SHOWN_PROBLEMS
    rest = f"; and {more} more, which `llava-uhd-v2 data check` lists" if more > 0 else ""
    return f"{len(problems)} samples can't be used: {'; '.join(problems[:_SHOWN_PROBLEMS])}{rest}"


__all__ = ["ConversationDataset"]
