# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The images of VDIM pre-training: files or a data set of the Hub -> normalised squares, in the seed's order.

Sample n of a training depends on the seed and on n alone, whichever process or worker makes it. An image that can't be
read is replaced by the next one that can, and named.
"""

import functools
import itertools
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from ....data.normalisation import NORMALISATIONS
from ....model.image_loading_llava_uhd_v2 import open_image, read_rgb
from ....model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from .recipe import VdimData


LISTS = (".json", ".jsonl")


class ImageSource(Protocol):
    """Images by number: a name, and a path or the bytes of a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[str, str | bytes]: ...


class FileImages:
    """Image files, named by their paths."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = np.array([os.fsencode(path) for path in paths])  # one block: workers don't copy it

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, str | bytes]:
        name = os.fsdecode(self.paths[index])
        return name, name


class HubImages:
    """A column of a data set of `datasets`; an image is named by its file, or by its row."""

    def __init__(self, dataset: Any, column: str, name: str):
        self.dataset, self.column, self.name = dataset, column, name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[str, str | bytes]:
        return hub_entry(self.dataset[index][self.column], f"{self.name}, row {index}")


def hub_entry(cell: Any, place: str) -> tuple[str, str | bytes]:
    """A cell of a data set -> name, and path or bytes."""
    if isinstance(cell, dict):
        return cell.get("path") or place, cell.get("bytes") or cell.get("path") or b""
    return (cell, cell) if isinstance(cell, str) else (place, b"")


def open_source(data: VdimData) -> ImageSource:
    """The images of a recipe that doesn't stream.

    Raises:
        ValueError: if there are none, or they can't be found.
    """
    _check_given(data)
    path = Path(data.images)
    if path.suffix in LISTS:
        return FileImages(_read_list(path, data.column))
    if path.is_dir():
        suffixes = Image.registered_extensions()
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        if files:
            return FileImages(files)
    dataset = _load_dataset(data)
    if not len(dataset):
        raise ValueError(f"`data.images`={data.images} has no images.")
    return HubImages(dataset, data.column, data.images)


def open_stream(data: VdimData) -> Any:
    """The iterable data set of a recipe that streams, images not decoded.

    Raises:
        ValueError: if it can't be found, or has no such column.
    """
    _check_given(data)
    return _load_dataset(data)


def _check_given(data: VdimData) -> None:
    if not data.images:
        raise ValueError("There are no images: set `data.images` to a folder, a list, or a data set of the Hub.")


def _read_list(path: Path, column: str) -> list[Path]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The list of images {path} can't be read: {error}; set `data.images`.") from error
    try:
        lines = path.suffix == ".jsonl"
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except ValueError as error:
        raise ValueError(f"The list of images {path} is not valid JSON: {error}.") from error
    rows = rows if isinstance(rows, list) else [rows]
    names = [row.get(column) if isinstance(row, dict) else row for row in rows]
    files = [path.parent / name for name in names if isinstance(name, str) and name]
    if not files or any(name is not None and not isinstance(name, str) for name in names):
        raise ValueError(
            f"{path} must list file names, or objects with one under `{column}` (see `data.column`); it has "
            f"{len(rows)} entries, such as {str(rows[0])[:100] if rows else 'none'}."
        )
    return files


def _load_dataset(data: VdimData) -> Any:
    import datasets  # takes a second

    try:
        dataset = datasets.load_dataset(data.images, split=data.split, streaming=data.streaming)
    except Exception as error:  # what its builders raise has no common class
        reason = " ".join(str(error).split())
        raise ValueError(
            f"`data.images`={data.images} is not a folder of images, a list or a data set that can be read ({reason})."
        ) from error
    if dataset.column_names is not None and data.column not in dataset.column_names:
        raise ValueError(
            f"The data set {data.images} has no column `{data.column}`; set `data.column` to one of "
            f"{', '.join(dataset.column_names)}."
        )
    # not decoded there: an image that can't be is to be named, not to end the training
    return dataset.select_columns([data.column]).cast_column(data.column, datasets.Image(decode=False))


def read_square(entry: str | bytes, data: VdimData) -> torch.Tensor:
    """One image as the tower sees it: (3, crop_size, crop_size), normalised.

    Raises:
        ValueError: if it can't be read.
    """
    source = open_image(entry) if isinstance(entry, bytes) else Path(entry)
    pixels = np.asarray(read_rgb(source, max_pixels=LlavaUhdV2ImageProcessor.max_image_pixels))
    square = _centre(pixels, data.crop_size, data.resize)
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALISATIONS[data.normalisation])
    return (torch.from_numpy(square).permute(2, 0, 1) / 255 - mean) / std


def _centre(pixels: np.ndarray, size: int, resize: str) -> np.ndarray:
    """The centre square of an image whose shorter side is resized to `size`; the rest is never resized."""
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    resized = [max(size, int(size * side / shorter)) for side in (height, width)]
    top, left = (round((side - size) / 2) for side in resized)
    scales = (height / resized[0], width / resized[1])
    if resize == "nearest":
        places = np.arange(size) + 0.5
        return pixels[((top + places) * scales[0]).astype(int)][:, ((left + places) * scales[1]).astype(int)]
    box = (left * scales[1], top * scales[0], (left + size) * scales[1], (top + size) * scales[0])
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box))


def make_sample(
    image: tuple[str, torch.Tensor] | None, position: int, seed: int, skipped: list[str]
) -> dict[str, Any]:
    """What [`collate`] takes.

    Args:
        image: name and pixels; None where there is none that can be read.
        position: number of the sample in the training.
        seed: of the training.
        skipped: what could not be read before it, with the reasons.
    """
    name, pixels = image or ("", torch.zeros(3, 1, 1))
    draw = int(np.random.SeedSequence((seed, position)).generate_state(1)[0])
    return {"pixel_values": pixels, "seeds": draw, "names": name, "skipped": skipped}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch: `pixel_values` (b, 3, s, s), `seeds` (b,), lists of `names` and of all that was `skipped`.

    If a sample has no image, `pixel_values` has only the others'.
    """
    readable = [sample["pixel_values"] for sample in samples if sample["names"]]
    return {
        "pixel_values": torch.stack(readable) if readable else torch.zeros(0),
        "seeds": torch.tensor([sample["seeds"] for sample in samples]),
        "names": [sample["names"] for sample in samples],
        "skipped": [entry for sample in samples for entry in sample["skipped"]],
    }


class VdimImages(Dataset):
    """All samples of a training in their order: every epoch has every image once, in an order of its own.

    Args:
        source: the images.
        data: how they become squares.
        seed: of the order and of each sample's draws.
        total: samples of the whole training.
    """

    def __init__(self, source: ImageSource, data: VdimData, seed: int, total: int):
        self.source, self.data, self.seed, self.total = source, data, seed, total
        self.order_of_epoch = functools.lru_cache(maxsize=2)(self._order_of_epoch)

    def __len__(self) -> int:
        return self.total

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.source))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "order_of_epoch"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.order_of_epoch = functools.lru_cache(maxsize=2)(self._order_of_epoch)

    def __getitem__(self, position: int) -> dict[str, Any]:
        skipped: list[str] = []
        for place in range(position, position + min(self.data.max_unreadable + 1, len(self.source))):
            epoch, index = divmod(place, len(self.source))
            name, entry = self.source[int(self.order_of_epoch(epoch)[index])]
            try:
                return make_sample((name, read_square(entry, self.data)), position, self.seed, skipped)
            except ValueError as error:
                skipped.append(" ".join(f"{name}: {error}".split()))
        return make_sample(None, position, self.seed, skipped)


class VdimStream(IterableDataset):
    """One process's share of a streamed data set of the Hub, epoch after epoch.

    Args:
        dataset: an iterable data set of `datasets`, images not decoded.
        data: how they become squares, and how a stream is shuffled.
        seed: of the order and of each sample's draws.
        total: samples that this process takes in the whole training.
        start: samples that it has taken before a resume.
        rank, world_size: number of this process, and of all.
    """

    def __init__(
        self,
        dataset: Any,
        data: VdimData,
        seed: int,
        total: int,
        *,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        from datasets.distributed import split_dataset_by_node

        dataset = dataset.shuffle(seed=seed, buffer_size=data.shuffle_buffer)
        self.dataset = split_dataset_by_node(dataset, rank, world_size)
        self.data, self.seed, self.start, self.total = data, seed, start, total
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """A sample is the first image, from its place in the stream on, that can be read."""
        waiting: list[int] = []
        skipped: list[str] = []
        for place, (name, entry) in enumerate(self.entries()):
            if place < self.start:
                continue
            waiting.append(place)
            try:
                image = (name, read_square(entry, self.data))
            except ValueError as error:
                skipped.append(" ".join(f"{name}: {error}".split()))
                if len(skipped) <= self.data.max_unreadable:
                    continue
                image = None
            for number in waiting:
                if number >= self.total:
                    return
                yield make_sample(image, number * self.world_size + self.rank, self.seed, skipped)
                skipped = []
            waiting = []
        yield make_sample(None, self.total, self.seed, skipped)

    def entries(self) -> Iterator[tuple[str, str | bytes]]:
        """The stream without end, or a finite one if an epoch has nothing that can be read."""
        for epoch in itertools.count():
            self.dataset.set_epoch(epoch)
            count = 0
            for count, row in enumerate(self.dataset, start=1):
                yield hub_entry(row[self.data.column], f"{self.data.images}, process {self.rank}, image {count}")
            if not count:
                return


def first_images(source: Any, data: VdimData, count: int) -> list[tuple[str, torch.Tensor]]:
    """Names and squares of the first images that can be read; fewer if there are fewer.

    Args:
        source: an [`ImageSource`], or an iterable data set of `datasets`.
        data: how they become squares.
        count: of images.
    """
    if isinstance(source, (FileImages, HubImages)):
        entries = (source[index] for index in range(len(source)))
    else:
        entries = (hub_entry(row[data.column], f"image {index}") for index, row in enumerate(source))
    images = []
    for name, entry in itertools.islice(entries, count + data.max_unreadable):
        try:
            images.append((name, read_square(entry, data)))
        except ValueError:
            continue  # named when the training comes to it
        if len(images) == count:
            break
    return images


def facts_of_images(source: Any) -> dict[str, Any]:
    """What must not change of the images, for [`compare_data`]: their number, and names and sizes of files."""
    if not isinstance(source, (FileImages, HubImages)):
        return {}  # a stream has no number of images
    checksum = 0
    if isinstance(source, FileImages):
        for path in source.paths:
            size = os.path.getsize(path) if os.path.isfile(path) else None
            checksum = zlib.crc32(path + repr(size).encode(), checksum)
    return {"images": {"count": len(source), "crc32": checksum}}
