# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Tensors in safetensors and .bin files, read by offset from files that must not change meanwhile.

Files are read, never memory-mapped: where a mapped file is truncated by another process, the kernel ends this one.
"""

import json
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode


SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
OTHER_DTYPES = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
}
HEADER_LENGTH = 8  # bytes before the header of a safetensors file, which say how long it is
ZIP_START, PICKLE_START = b"PK\x03\x04", b"\x80"


class FileStates:
    """The files that a command reads, as they were when it began.

    Args:
        paths: the files.

    Raises:
        OSError: if one is not there.
    """

    def __init__(self, paths: Iterable[Path]):
        self._states = {path: _state(path) for path in paths}

    def check(self, *paths: Path) -> None:
        """Checks that these files, by default all, are still the same.

        Raises:
            ValueError: if one was written to, replaced or removed.
        """
        for path in paths or self._states:
            if not path.is_file() or _state(path) != self._states[path]:
                raise ValueError(
                    f"{path} changed while it was read, so that old and new contents would be mixed; wait until "
                    "nothing writes to it and run the same command again."
                )


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class StoredTensor:
    """Where the numbers of a tensor lie in a file.

    Args:
        path: the file.
        dtype: of the numbers, by the name that PyTorch or, for what PyTorch has no dtype for, safetensors has.
        shape: of the tensor.
        stride: of the tensor, in numbers.
        start: offset of the first number, in bytes.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int

    def read(self) -> Tensor:
        """Reads the tensor.

        Raises:
            ValueError: if the file ends before it does, or PyTorch has no such dtype.
        """
        return self._read(self.start, self.shape)

    def pieces(self, size: int) -> Iterator[Tensor]:
        """Reads the tensor in parts along its first dimension, of at most `size` numbers or one row."""
        contiguous = self.stride == torch.empty(self.shape, device="meta").stride()
        if not self.shape or not contiguous or not all(self.shape):
            yield self.read()
            return
        rows, dtype = max(1, size // self.stride[0]), self._dtype()
        for first in range(0, self.shape[0], rows):
            start = self.start + first * self.stride[0] * dtype.itemsize
            yield self._read(start, (min(rows, self.shape[0] - first), *self.shape[1:]))

    def _dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{self.path} holds numbers of type {self.dtype}, expected floating-point numbers.")
        return dtype

    def _read(self, start: int, shape: tuple[int, ...]) -> Tensor:
        dtype = self._dtype()
        count = 1 + sum((side - 1) * step for side, step in zip(shape, self.stride, strict=True)) if all(shape) else 0
        if start + count * dtype.itemsize > self.path.stat().st_size:
            raise ValueError(f"{self.path} is truncated; compare its size with the original's.")
        numbers = torch.empty(count, dtype=dtype)
        if count:
            data = numbers.view(torch.uint8).numpy().data
            with open(self.path, "rb") as file:
                file.seek(start)
                if file.readinto(data) != len(data):
                    raise ValueError(f"{self.path} is truncated; compare its size with the original's.")
        return numbers.as_strided(shape, self.stride)


def safetensors_places(path: Path) -> dict[str, StoredTensor]:
    """Returns where the tensors of a safetensors file lie, by name.

    Raises:
        ValueError: if it is truncated or another kind of file.
    """
    try:
        with safe_open(path, framework="pt") as file:  # checks the whole header
            names = file.keys()
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file ({error}); compare its size with the original's."
        ) from error
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(HEADER_LENGTH), "little")
        header = json.loads(file.read(length))
    places = {}
    for name in names:
        shape = tuple(header[name]["shape"])
        word = header[name]["dtype"]
        dtype = (SAFETENSORS_DTYPES | OTHER_DTYPES).get(word, word)
        start = HEADER_LENGTH + length + header[name]["data_offsets"][0]
        places[name] = StoredTensor(path, dtype, shape, torch.empty(shape, device="meta").stride(), start)
    return places


def unpickle(path: Path, entry: str | None = None) -> dict[str, Tensor]:
    """Reads a whole file that `torch.save` wrote; within a FakeTensorMode, its tensors without their numbers.

    Args:
        path: the file.
        entry: key of the table of tensors, where the file holds more than tensors.

    Raises:
        ValueError: if it is truncated, another kind of file, or holds anything but tensors by name.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, so reading it could run code of whoever made it, and it is not "
            "read. Save its table of tensors alone, as safetensors, where you trust it."
        ) from error
    except Exception as error:  # damaged pickles raise whatever their bytes lead to
        raise ValueError(
            f"{path} is truncated or not what its name says: expected tensors saved by `torch.save` ({error})."
        ) from error
    if entry is not None:
        if not isinstance(values, dict) or entry not in values:
            raise ValueError(f"{path} has no `{entry}`, the table of tensors it must hold.")
        values = values[entry]
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a table of tensors by name, but holds a {type(values).__name__}.")
    if wrong := [str(name) for name, value in values.items() if not (isinstance(name, str) and _is_dense(value))]:
        raise ValueError(f"{path} must hold nothing but tensors by name, but has also: {', '.join(wrong[:10])}.")
    return {name: tensor.detach() for name, tensor in values.items()}


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _check_claims(path: Path, tensors: dict[str, Tensor]) -> None:
    """Checks that tensors are not larger than the file that holds their numbers, before memory is allocated.

    Raises:
        ValueError: if one is: the file is truncated, or repeats its numbers.
    """
    size = path.stat().st_size
    for name, tensor in tensors.items():
        claimed = max(tensor.nbytes, tensor.untyped_storage().nbytes())
        if claimed > size:
            raise ValueError(f"Expected `{name}` in {path} within the file's {size} bytes, but it has {claimed}.")


def pickled_places(path: Path, entry: str | None = None) -> dict[str, StoredTensor] | None:
    """Returns where the tensors of a .bin file lie, by name.

    Args:
        path: the file.
        entry: see [`unpickle`].

    Returns:
        None for files of PyTorch before 1.6, whose tensors have to be unpickled, and where this PyTorch can't tell.

    Raises:
        ValueError: as [`unpickle`] does.
    """
    with open(path, "rb") as file:
        start = file.read(len(ZIP_START))
    if not start.startswith((PICKLE_START, ZIP_START)):
        raise ValueError(f"{path} is not what its name says: expected tensors saved by `torch.save`.")
    with FakeTensorMode():
        tensors = unpickle(path, entry)
    _check_claims(path, tensors)
    if start.startswith(PICKLE_START):
        return None
    places = {}
    for name, tensor in tensors.items():
        offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        if offset is None:
            return None
        dtype = str(tensor.dtype).removeprefix("torch.")
        first = offset + tensor.storage_offset() * tensor.dtype.itemsize
        places[name] = StoredTensor(path, dtype, tuple(tensor.shape), tensor.stride(), first)
    return places
