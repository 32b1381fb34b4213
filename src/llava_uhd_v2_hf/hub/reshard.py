# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Writing the weights of a checkpoint again in files of a given size."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from ..utils.atomic import check_free_space
from .checkpoint_folder import Checkpoint


def reshard(checkpoint: Checkpoint, folder: Path, max_shard_size: str) -> dict[str, Path]:
    """Writes the weights into `folder` again, in files of at most `max_shard_size` ("5GB").

    One file is in memory at a time. The same weights and size give the same files, byte by byte, so that an
    interrupted push finds them again.

    Returns:
        The new files, as in [`Checkpoint`].
    """
    sources = [path for name, path in checkpoint.weights.items() if name.endswith(".safetensors")]
    check_free_space(folder, sum(path.stat().st_size for path in sources))
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(path, "pt")) for path in sources]
        places = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 (not a dict)
        skeleton = {name: _on_meta(file, name) for name, file in places.items()}
        split = split_torch_state_dict_into_shards(skeleton, max_shard_size=max_shard_size)
        written = {}
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            written[SAFE_WEIGHTS_INDEX_NAME] = folder / SAFE_WEIGHTS_INDEX_NAME
            written[SAFE_WEIGHTS_INDEX_NAME].write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        for filename, names in split.filename_to_tensors.items():
            shard = {name: places[name].get_tensor(name) for name in names}
            written[filename] = folder / filename
            save_file(shard, written[filename], metadata={"format": "pt"})
    return written


def _on_meta(file: Any, name: str) -> torch.Tensor:
    """Returns a tensor of a safetensors file without its numbers."""
    view = file.get_slice(name)
    empty = file.get_tensor(name) if not view.get_shape() else view[:0]  # a scalar has nothing to slice
    return torch.empty(view.get_shape(), dtype=empty.dtype, device="meta")


__all__ = ["reshard"]
