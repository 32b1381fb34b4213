# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Reads the data of a fine-tuning once, and says what would stop a training, and how many tokens samples have."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..model.image_loading_llava_uhd_v2 import read_pixels
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from ..model.processing_llava_uhd_v2 import LlavaUhdV2Processor
from .collation import ConversationCollator
from .labels import TEMPLATE_ERRORS
from .lengths import count_tokens
from .mixtures import ConversationData, MixtureSource, read_sources
from .records import Records
from .sample_images import image_size
from .samples import describe_missing, locate_sample, open_sample
from .sources import find_source


QUANTILES = {"p5": 0.05, "p50": 0.5, "p95": 0.95, "max": 1.0}


@dataclass
class Finding:
    """Something about one sample.

    Args:
        text: what, beginning with the place and the id of the sample.
        stops: whether it would stop a training.
    """

    text: str
    stops: bool = True


@dataclass
class DataReport:
    """What [`check_data`] found.

    Args:
        samples: records that were read.
        images: of the samples that can be used.
        findings: in the order of the records.
        tokens: quantiles of the `text` and `image` tokens of samples, uncut; empty without a processor.
    """

    samples: int = 0
    images: int = 0
    findings: list[Finding] = field(default_factory=list)
    tokens: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def stops(self) -> bool:
        """Whether something would stop a training."""
        return any(finding.stops for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The report as nested dicts, with `stops`."""
        return {**asdict(self), "stops": self.stops}

    def describe(self) -> Iterator[str]:
        """The report in lines."""
        for finding in self.findings:
            yield f"{'Error' if finding.stops else 'Note'}: {finding.text}"
        errors = sum(finding.stops for finding in self.findings)
        yield f"{self.samples} samples, {self.images} images, {errors} that would stop a training"
        if self.tokens:
            yield f"{'tokens':<8}" + "".join(f"{name:>8}" for name in QUANTILES)
        for kind, quantiles in self.tokens.items():
            yield f"{kind:<8}" + "".join(f"{number:>8}" for number in quantiles.values())


@dataclass
class _Checked:
    findings: list[Finding]
    images: int = 0
    tokens: tuple[int, int] | None = None


class _Checks(Dataset):
    """The checks of every record of a source."""

    def __init__(self, records: Records, source: MixtureSource, collator: ConversationCollator | None):
        self.records, self.source, self.collator = records, source, collator

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> _Checked:
        try:
            sample = locate_sample(*self.records[index], self.source)
            if missing := describe_missing(sample):
                return _Checked([Finding(missing)])
            for image in open_sample(sample, None, ())["images"]:
                _decode(image, sample["name"])
            if self.collator is None:
                return _Checked([], len(sample["images"]))
            return self._check_length(sample, self.collator)
        except ValueError as error:
            return _Checked([Finding(" ".join(str(error).split()))])

    def _check_length(self, sample: dict[str, Any], collator: ConversationCollator) -> _Checked:
        sizes = [image_size(image) for image in sample["images"]]
        try:
            tokens = count_tokens(sample["messages"], sizes, collator.processor, collator.max_slices)
        except TEMPLATE_ERRORS as error:
            raise ValueError(f"{sample['name']} can't be used: {error}") from error
        findings = []
        if sum(tokens) > collator.max_length:
            collator.encode(open_sample(sample, None, ()), sample["name"])
            text = f"{sample['name']} has {sum(tokens)} tokens; `max_length`={collator.max_length} cuts its text."
            findings.append(Finding(text, stops=False))
        return _Checked(findings, len(sample["images"]), tokens)


def check_data(
    data: ConversationData,
    processor: LlavaUhdV2Processor | None = None,
    *,
    num_workers: int = 0,
) -> DataReport:
    """Reads every record of the sources once and decodes every image; shows how far it is, on a terminal.

    Args:
        data: the sources, `max_length` and `max_slices`. Samples that a mixture wouldn't draw are read too.
        processor: of the model; without it, tokens are not counted.
        num_workers: processes that share the work; 0 for this one.

    Raises:
        ValueError: if a source as a whole can't be read.
    """
    collator = None
    if processor is not None:
        collator = ConversationCollator(processor, max_length=data.max_length, max_slices=data.max_slices)
    report = DataReport()
    tokens: list[tuple[int, int]] = []
    for source in read_sources(data):
        checks = _Checks(find_source(source.path).open(source.path, source.split), source, collator)
        loader: DataLoader = DataLoader(checks, batch_size=16, num_workers=num_workers, collate_fn=list)
        with tqdm(total=len(checks), unit=" samples", desc=source.path, disable=None, leave=False) as progress:
            for batch in loader:
                progress.update(len(batch))
                for checked in batch:
                    report.findings += checked.findings
                    report.images += checked.images
                    tokens += [checked.tokens] if checked.tokens else []
        report.samples += len(checks)
    if tokens:
        report.tokens = dict(zip(("text", "image"), map(_quantiles, np.transpose(tokens))))
    return report


def _decode(image: Any, name: str) -> None:
    try:
        read_pixels(image, max_pixels=LlavaUhdV2ImageProcessor.max_image_pixels)
    except ValueError as error:
        raise ValueError(f"{name}: the image {getattr(image, 'filename', '')} can't be used: {error}") from error


def _quantiles(numbers: np.ndarray) -> dict[str, int]:
    """Each is a number that there is."""
    return {name: int(np.quantile(numbers, share, method="inverted_cdf")) for name, share in QUANTILES.items()}


__all__ = ["DataReport", "Finding", "check_data"]
