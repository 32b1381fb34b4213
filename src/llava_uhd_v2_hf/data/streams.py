# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Streams of samples for fine-tuning: records are read during the training."""

import itertools
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from ..model.image_loading_llava_uhd_v2 import Alpha
from .mixtures import ConversationData, MixtureSource, read_sources
from .samples import describe_missing, locate_sample, open_sample
from .sources import find_source
from .worker_counts import WorkerCounts


class ConversationStream(IterableDataset):
    """One process's share of streamed conversations, epoch after epoch, without end.

    An epoch of a single source has every sample once, over all processes and workers. An epoch of a mixture draws from
    its sources in proportion to their `samples` until it has seen the last of them to its end; shorter ones begin
    again. The samples are those of [`ConversationDataset`], named by their numbers in the stream. Their order depends
    on the seed and on how many processes and workers read; what is drawn for a sample, on the seed and the sample.

    Not for accelerate's `prepare`, which would share out again what this class has shared out.

    Args:
        data: the sources, and what happens to samples that can't be used.
        seed: of the order, and of the resizing.
        rank, world_size: number of this process, and of all.
        num_workers: of this process's data loader.
        start_batch: batches of this process before a resume; they are passed over without opening an image.
        batch_size: samples of a batch of this process.
        alpha: of [`ConversationDataset`].

    Attributes:
        counts ([`WorkerCounts`]): `missing_images`, samples left out because an image file is missing.

    Raises:
        ValueError: if a source can't be streamed, or there are more workers than shards. While it is read, if a
            record or an image can't be used.
    """

    def __init__(
        self,
        data: ConversationData,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        start_batch: int = 0,
        batch_size: int = 1,
        alpha: Alpha = "drop",
    ):
        from datasets.distributed import split_dataset_by_node

        self.data, self.seed, self.rank, self.alpha = data, seed, rank, alpha
        self.start_batch, self.batch_size = start_batch, batch_size
        self.sources = read_sources(data)
        streams = [_open_stream(number, source) for number, source in enumerate(self.sources)]
        mixed = streams[0] if len(streams) == 1 else _interleave(streams, self.sources, seed)
        # without a buffer, samples of a shard stay together
        shards = {"max_buffer_input_shards": 1} if data.shuffle_buffer == 1 else {}
        shuffled = mixed.shuffle(seed=seed, buffer_size=data.shuffle_buffer, **shards)
        self.dataset = split_dataset_by_node(shuffled, rank, world_size)
        self.counts = WorkerCounts(["missing_images"])
        if num_workers > self.dataset.num_shards:
            raise ValueError(
                f"{data.source} has {self.dataset.num_shards} shards for a process with {num_workers} workers; set "
                f"`training.dataloader_num_workers` to {self.dataset.num_shards} at most."
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        passed_over = len(range(number, self.start_batch, workers)) * self.batch_size
        samples = itertools.chain.from_iterable(map(self.samples_of_epoch, itertools.count()))
        for sample in itertools.islice(samples, passed_over, None):
            yield open_sample(sample, self.data.pre_resize, (self.seed, sample["checksum"]), self.alpha)

    def samples_of_epoch(self, epoch: int) -> Iterator[dict[str, Any]]:
        """What this process, or this worker of it, reads in an epoch; images are not opened yet.

        Raises:
            ValueError: if the epoch has no sample that can be used.
        """
        self.dataset.set_epoch(epoch)
        worker = get_worker_info()
        where = f"process {self.rank}, worker {worker.id if worker else 0}, epoch {epoch}"
        found = False
        for number, row in enumerate(self.dataset):
            source = self.sources[row["source"]]
            record = json.loads(row["record"])
            if row["images"]:
                record["images"] = row["images"]
            place = row["place"] or f"{source.path}, {where}, sample {number}"
            sample = locate_sample(place, record, source)
            if missing := describe_missing(sample):
                if self.data.missing_images == "error":
                    raise ValueError(missing)
                self.counts.add("missing_images")
                continue
            found = True
            yield {**sample, "checksum": zlib.crc32(row["record"].encode())}
        if not found:
            raise ValueError(f"{self.data.source} has no sample that can be used ({where}).")


def _open_stream(number: int, source: MixtureSource) -> Any:
    """A stream whose rows are the same for every source: `source`, `place`, `record` in JSON, and `images`."""
    import datasets

    stream = find_source(source.path).stream(source.path, source.split)
    columns = datasets.Features(
        {
            "source": datasets.Value("int64"),
            "place": datasets.Value("string"),
            "record": datasets.Value("string"),
            "images": datasets.List(datasets.Image(decode=False)),
        }
    )
    return stream.map(_pack_row, fn_kwargs={"number": number}, features=columns)


def _pack_row(row: dict[str, Any], number: int) -> dict[str, Any]:
    record = row["record"]
    cells: list[dict[str, Any]] = []
    if isinstance(record, Mapping):  # else it is refused where it is read
        images = [record[field] for field in ("image", "images") if record.get(field) is not None]
        flat = [image for entry in images for image in (entry if isinstance(entry, list) else [entry])]
        record = {field: value for field, value in record.items() if field not in ("image", "images")}
        cells = [{"bytes": None, "path": image} if isinstance(image, str) else image for image in flat]
    return {"source": number, "place": row["place"], "record": json.dumps(record, default=str), "images": cells}


def _interleave(streams: list[Any], sources: list[MixtureSource], seed: int) -> Any:
    import datasets

    shares = [source.samples for source in sources if source.samples is not None]
    if len(shares) < len(sources):
        raise ValueError("A mixture that is streamed needs `samples` of every source, as the sizes are not known.")
    probabilities = [share / sum(shares) for share in shares]
    return datasets.interleave_datasets(streams, probabilities, seed=seed, stopping_strategy="all_exhausted")


__all__ = ["ConversationStream"]
