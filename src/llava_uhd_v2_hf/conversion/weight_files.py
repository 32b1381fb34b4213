# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Tensors in files: read one at a time from shards, written piece by piece into safetensors shards.

Neither side ever holds a whole shard, so memory stays near `PIECE_SIZE` numbers whatever the size of the model. The
one exception are .bin files from before PyTorch 1.6: they are held one at a time.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor
from tqdm import tqdm
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from ..utils.json_files import read_json
from ..utils.plain_names import check_plain_name
from .stored_tensors import SAFETENSORS_DTYPES, FileStates, StoredTensor, pickled_places, safetensors_places, unpickle


MAX_SHARD_SIZE = 2 * 10**9  # bytes
PIECE_SIZE = 2**24  # numbers that are cast, checked and written at once

FLOATING_DTYPES = (*SAFETENSORS_DTYPES.values(), "float8_e4m3fn", "float8_e5m2")

GIT_LFS_START = b"version https://git-lfs"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class WeightFiles:
    """The tensors of any number of safetensors or .bin files, read one at a time.

    Args:
        paths: the files; no name may be in two of them.
        entry: key of the table of tensors in a pickle that holds more than tensors, such as `"state_dict"`.

    Attributes:
        shapes: shape of every tensor, by name.
        dtypes: dtype of every tensor, by name; "bfloat16" and the like.

    Raises:
        ValueError: if a file cannot be read, naming it and what it should be, or a name is in two files.
    """

    def __init__(self, paths: Sequence[Path], *, entry: str | None = None):
        self.paths = list(paths)
        self.shapes: dict[str, list[int]] = {}
        self.dtypes: dict[str, str] = {}
        self._entry = entry
        self._places: dict[str, StoredTensor] = {}  # of all tensors but those of the next table
        self._unpickled_path: dict[str, Path] = {}
        self._whole: tuple[Path | None, dict[str, Tensor]] = (None, {})
        for path in self.paths:
            _refuse_what_is_no_weights(path)
        self.states = FileStates(self.paths)
        path_of: dict[str, Path] = {}
        for path in self.paths:
            for name, shape, dtype in self._open(path):
                if name in path_of:
                    raise ValueError(
                        f"`{name}` is in two files, {path_of[name].name} and {path.name}; leave one set of weights in "
                        f"{path.parent}."
                    )
                path_of[name], self.shapes[name], self.dtypes[name] = path, shape, dtype

    @classmethod
    def from_folder(cls, folder: Path, stems: Sequence[str] = ("model", "pytorch_model")) -> "WeightFiles":
        """Opens the weights of a folder: those its index names, or all whose names begin with one of `stems`.

        Raises:
            ValueError: if there are none, or a file of the index is missing or outside the folder.
        """
        for stem, suffix in zip(stems, ("safetensors", "bin"), strict=True):
            files = sorted(folder.glob(f"{stem}*.{suffix}"))
            for index in folder.glob(f"{stem}*.{suffix}.index.json"):
                files = [folder / name for name in indexed_files(index)]
            absent = [path.name for path in files if not path.is_file()]
            if absent:
                raise ValueError(
                    f"The index of the weights names files that {folder} does not have: {', '.join(absent)}."
                )
            if files:
                return cls(files)
        raise ValueError(f"{folder} has no weights: neither {stems[0]}*.safetensors nor {stems[1]}*.bin.")

    def read(self, name: str) -> Tensor:
        """Reads the tensor of this name.

        Raises:
            ValueError: if its file was changed since it was opened.
        """
        [tensor] = self.pieces(name, size=None)
        return tensor

    def pieces(self, name: str, size: int | None = PIECE_SIZE) -> Iterator[Tensor]:
        """Reads the tensor of this name in parts along its first dimension, of at most `size` numbers or one row.

        Raises:
            ValueError: if its file was changed since it was opened.
        """
        if place := self._places.get(name):
            self.states.check(place.path)
            for piece in [place.read()] if size is None else place.pieces(size):
                self.states.check(place.path)
                yield piece
        else:
            yield self._unpickled(self._unpickled_path[name])[name]

    def _unpickled(self, path: Path) -> dict[str, Tensor]:
        if self._whole[0] != path:
            self._whole = (None, {})  # gives the memory back first
            self._whole = (path, unpickle(path, self._entry))
            self.states.check(path)
        return self._whole[1]

    def _open(self, path: Path) -> list[tuple[str, list[int], str]]:
        """Opens a file and lists name, shape and dtype of its tensors."""
        is_safetensors = path.suffix == ".safetensors"
        places = safetensors_places(path) if is_safetensors else pickled_places(path, self._entry)
        if places is not None:
            found = [(name, list(place.shape), place.dtype) for name, place in places.items()]
            self._places |= places
        else:
            tensors = self._unpickled(path)
            found = [(name, list(tensor.shape), dtype_name(tensor.dtype)) for name, tensor in tensors.items()]
            self._unpickled_path |= dict.fromkeys(tensors, path)
        return found


def indexed_files(index: Path) -> list[str]:
    """Returns the names of the weight files that an index names.

    Raises:
        ValueError: if it is not an index, or a name is not that of a file beside it.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index} has no `weight_map`, the table of names and files it must hold.")
    return sorted({check_plain_name(name, f"`weight_map` of {index}") for name in weight_map.values()})


def _refuse_what_is_no_weights(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"There is no {path}.")
    with open(path, "rb") as file:
        if file.read(len(GIT_LFS_START)) == GIT_LFS_START:
            raise ValueError(f"{path} is a Git LFS pointer, not the weights; fetch them with `git lfs pull`.")


class LoadedWeights:
    """Tensors in memory, with the attributes of [`WeightFiles`].

    Args:
        paths: files that they are loaded from.
        load: returns them by name.
    """

    def __init__(self, paths: Sequence[Path], load: Callable[[], Mapping[str, Tensor]]):
        self.paths = list(paths)
        self.states = FileStates(self.paths)
        tensors = load()
        self.shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        self.dtypes = {name: dtype_name(tensor.dtype) for name, tensor in tensors.items()}
        self._tensors = tensors

    def read(self, name: str) -> Tensor:
        """Returns the tensor of this name."""
        return self._tensors[name]

    def pieces(self, name: str) -> Iterator[Tensor]:
        """Yields the tensor of this name, whole."""
        yield self._tensors[name]


@dataclass(frozen=True)
class LazyTensor:
    """A tensor to be written, which is read when its turn comes.

    Args:
        shape: its shape.
        read: returns its parts, which follow each other along the first dimension, in any dtype.
        sources: names of the tensors it is made from, for messages.
    """

    shape: Sequence[int]
    read: Callable[[], Iterable[Tensor]]
    sources: tuple[str, ...]


def stored_tensor(weights: WeightFiles, name: str) -> LazyTensor:
    """Makes a tensor to be written as it is read."""
    return LazyTensor(weights.shapes[name], lambda: weights.pieces(name), (name,))


def in_memory(name: str, tensor: Tensor) -> LazyTensor:
    """Makes a tensor to be written that is in memory already."""
    return LazyTensor(tensor.shape, lambda: [tensor], (name,))


def total_size(tensors: Mapping[str, LazyTensor], dtype: torch.dtype) -> int:
    """Counts the bytes of all tensors in this dtype."""
    return sum(math.prod(tensor.shape) for tensor in tensors.values()) * dtype.itemsize


def split_into_pieces(parts: Iterable[Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    """Yields the parts in this dtype, contiguous, at most about `PIECE_SIZE` numbers (at least one row) at a time."""
    for part in parts:
        rows = part.reshape(1) if part.ndim == 0 else part
        for piece in rows.split(max(1, PIECE_SIZE // max(1, rows[:1].numel()))):
            yield piece.to(dtype).contiguous()


def write_shards(folder: Path, tensors: Mapping[str, LazyTensor], dtype: torch.dtype) -> dict[str, str]:
    """Writes safetensors shards of at most `MAX_SHARD_SIZE`, and their index where there are several.

    Returns:
        SHA-256 of every shard, by file name.

    Raises:
        ValueError: if numbers are NaN or infinite in this dtype; the message names all the tensors.
    """
    skeleton = {name: torch.empty(tuple(x.shape), dtype=dtype, device="meta") for name, x in tensors.items()}
    split = split_torch_state_dict_into_shards(skeleton, max_shard_size=MAX_SHARD_SIZE)
    files = {
        folder / filename: {name: tensors[name] for name in names}
        for filename, names in split.filename_to_tensors.items()
    }
    hashes = _write_files(files, dtype)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")
    return hashes


def write_file(path: Path, tensors: Mapping[str, LazyTensor], dtype: torch.dtype) -> dict[str, str]:
    """Writes one file, as [`write_shards`] writes several."""
    return _write_files({path: tensors}, dtype)


def _write_files(files: Mapping[Path, Mapping[str, LazyTensor]], dtype: torch.dtype) -> dict[str, str]:
    hashes, not_finite = {}, []
    size = sum(total_size(tensors, dtype) for tensors in files.values())
    with tqdm(total=size, desc="Writing", unit="B", unit_scale=True, disable=None) as progress:
        for path, tensors in files.items():
            hashes[path.name], found = _write_file(path, tensors, dtype, progress)
            not_finite += [tensors[name].sources for name in found]
    if not_finite:
        sources = "; ".join(", ".join(f"`{name}`" for name in names) for names in not_finite)
        raise ValueError(f"Weights are NaN or infinite as {dtype_name(dtype)}, in: {sources}.")
    return hashes


def _write_file(
    path: Path, tensors: Mapping[str, LazyTensor], dtype: torch.dtype, progress: tqdm
) -> tuple[str, list[str]]:
    """Writes one file in the safetensors format; returns its SHA-256 and the tensors that are not finite."""
    word = next(word for word, name in SAFETENSORS_DTYPES.items() if name == dtype_name(dtype))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        header[name] = {"dtype": word, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest, not_finite = hashlib.sha256(), []
    with open(path, "wb") as file:
        for data in (len(text).to_bytes(8, "little"), text):
            digest.update(data)
            file.write(data)
        for name, tensor in tensors.items():
            is_finite = True
            for piece in split_into_pieces(tensor.read(), dtype):
                is_finite = is_finite and bool(piece.isfinite().all())
                numbers = piece.flatten().view(torch.uint8).numpy().data
                digest.update(numbers)
                file.write(numbers)
                progress.update(len(numbers))
            if not is_finite:
                not_finite.append(name)
            if file.tell() != 8 + len(text) + header[name]["data_offsets"][1]:
                raise RuntimeError(f"`{name}` was announced as {list(tensor.shape)} but has another size.")
    return digest.hexdigest(), not_finite
