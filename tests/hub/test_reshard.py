# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Weights in files of a given size."""

import json

import torch
from safetensors.torch import load_file

from llava_uhd_v2_hf.hub.checkpoint_folder import read_checkpoint
from llava_uhd_v2_hf.hub.reshard import reshard


def test_reshard_keeps_every_tensor_and_is_repeatable(checkpoint, tmp_path):
    found = read_checkpoint(checkpoint)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        written = reshard(found, folder, "4MB")
    assert len(written) == 4
    for name in written:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    tensors = load_file(checkpoint / "model.safetensors")
    index = json.loads((folders[0] / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(folders[0] / file)[name], tensors[name])
    assert list(reshard(found, tmp_path / "b", "1GB")) == ["model.safetensors"]
