# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Rows of data sets of `datasets`: .parquet files, folders, and data sets of the Hub."""

from typing import Any


class DatasetRecords:
    """The rows of a data set of `datasets`, images not decoded.

    Args:
        dataset: the data set.
        name: of it, for messages.
    """

    def __init__(self, dataset: Any, name: str):
        self.dataset, self.name = dataset, name
        self.embed_images = bool(_image_columns(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        return f"{self.name}, row {index}", self.dataset[index]


def open_dataset(path: str, split: str, *, builder: str | None = None, streaming: bool = False) -> Any:
    """Opens a data set of `datasets`, or an iterable one, images not decoded.

    Args:
        path: a file, for a `builder`; else a folder or the Hub id of a data set.
        split: of the data set.
        builder: of `datasets`, such as "parquet".
        streaming: whether rows are read while they are iterated over, without a copy.

    Raises:
        ValueError: if the data set can't be read.
    """
    import datasets  # takes a second

    try:
        if builder is not None:
            dataset = datasets.load_dataset(builder, data_files=path, split=split, streaming=streaming)
        else:
            dataset = datasets.load_dataset(path, split=split, streaming=streaming)
    except Exception as error:  # what its builders raise has no common class
        raise ValueError(" ".join(str(error).split())) from error
    undecoded = datasets.Image(decode=False)
    for column, is_list in _image_columns(dataset).items():
        dataset = dataset.cast_column(column, datasets.List(undecoded) if is_list else undecoded)
    return dataset


def _image_columns(dataset: Any) -> dict[str, bool]:
    """The columns of images, and whether they are of lists of them."""
    import datasets

    columns = {}
    for column, feature in (dataset.features or {}).items():
        inner = getattr(feature, "feature", None)
        if isinstance(feature, datasets.Image) or isinstance(inner, datasets.Image):
            columns[column] = inner is not None
    return columns


__all__ = ["DatasetRecords", "open_dataset"]
