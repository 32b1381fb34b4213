# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Reads the recordings of the authors' code: images as they were fed, weights under our names."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from llava_uhd_v2_hf import LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.conversion.projector_map import UPSAMPLER, projector_rules


PROJECTOR = "model.visual.projector."
CLIP_MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
CLIP_STD = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]


def read_recording(folder: Path, name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """The description and the tensors of one recording."""
    return json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors")


def read_pixels(folder: Path, file: str) -> torch.Tensor:
    """An image as (3, h, w) floats from 0 to 255."""
    return torch.from_numpy(np.array(Image.open(folder / file))).permute(2, 0, 1).float()


def under_our_names(
    released: dict[str, torch.Tensor], projector: LlavaUhdV2ProjectorConfig, prefix: str
) -> dict[str, torch.Tensor]:
    """Projector tensors renamed and reshaped by the converter's rules; only ours that begin with `prefix`, cut off."""
    state = {}
    for rule in projector_rules(projector):
        if all(name in released for name in rule.released):
            state.update(rule.to_ours([released[name].float() for name in rule.released]))
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def upsampler_tensors(
    tensors: dict[str, torch.Tensor], prefix: str, projector: LlavaUhdV2ProjectorConfig
) -> dict[str, torch.Tensor]:
    """Weights or gradients of a recorded up-sampler stack, under our names."""
    stack = "model.mm_projector.upsampler.upsampler."
    released = {stack + name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return under_our_names(released, projector, UPSAMPLER)
