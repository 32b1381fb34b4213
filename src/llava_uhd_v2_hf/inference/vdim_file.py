# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The result of VDIM pre-training: one small safetensors file with the up-sampler."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2ProjectorConfig
from ..model.upsamplers_vdim_llava_uhd_v2 import LlavaUhdV2Upsampler
from ..utils.atomic import atomic_write


VDIM_NAME = "vdim.safetensors"
METADATA_KEY = "vdim"


@dataclass(frozen=True)
class VdimFacts:
    """What an up-sampler was trained for; it stands in the header of its file.

    Attributes:
        tower: folder or Hub id of the vision tower.
        tower_type: its `model_type`.
        channels: its width.
        patch_size: its patch size, in pixels.
        vision_feature_layer: index of the hidden state that is up-sampled.
        crop_size: side of the training images, in pixels.
        normalisation: of their pixels: "imagenet", "clip" or "siglip".
        steps: of up-sampling.
        kernel_size: side of the neighbourhood that is mixed.
        guidance_size: channels to which pixels are projected.
    """

    tower: str
    tower_type: str
    channels: int
    patch_size: int
    vision_feature_layer: int
    crop_size: int
    normalisation: str
    steps: int
    kernel_size: int
    guidance_size: int

    def projector_config(self) -> LlavaUhdV2ProjectorConfig:
        """Configuration of a projector that the up-sampler fits into."""
        return LlavaUhdV2ProjectorConfig(
            levels=list(range(self.steps + 1)),
            upsampler_kernel_size=self.kernel_size,
            upsampler_guidance_size=self.guidance_size,
        )


def save_vdim(folder: Path, upsampler: LlavaUhdV2Upsampler, facts: VdimFacts) -> Path:
    """Writes `folder`/vdim.safetensors, in float32, under a temporary name first; returns its path."""
    path = folder / VDIM_NAME
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in upsampler.state_dict().items()}
    with atomic_write(path) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt", METADATA_KEY: json.dumps(asdict(facts))})
    return path


def find_vdim(source: str | Path) -> Path:
    """
    Args:
        source: the file, a folder that holds it, or the Hub id of a repository that does.

    Raises:
        ValueError: if there is none.
    """
    path = Path(source) / VDIM_NAME if Path(source).is_dir() else Path(source)
    if path.is_file():
        return path
    if not path.exists() and str(source).count("/") == 1 and path.suffix != ".safetensors":
        try:
            return Path(hf_hub_download(str(source), VDIM_NAME))
        except (OSError, ValueError, HfHubHTTPError) as error:
            raise ValueError(
                f"{source} is no folder, and no {VDIM_NAME} of the Hub that can be read: {error}"
            ) from error
    raise ValueError(f"There is no {VDIM_NAME} at {source}; give the folder that `train vdim` has written.")


def load_vdim(source: str | Path) -> tuple[LlavaUhdV2Upsampler, VdimFacts]:
    """An up-sampler as it was trained, in evaluation mode, and what it was trained for.

    Args:
        source: see [`find_vdim`].

    Raises:
        ValueError: if there is no such file, or it is damaged or another kind of file.
    """
    path = find_vdim(source)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}.") from error
    facts = _read_facts(path, metadata)
    upsampler = LlavaUhdV2Upsampler(facts.projector_config(), facts.channels)
    _load(upsampler, tensors, path)
    return upsampler.eval(), facts


def _read_facts(path: Path, metadata: dict[str, str]) -> VdimFacts:
    try:
        values = json.loads(metadata[METADATA_KEY])
        return VdimFacts(**{field.name: values[field.name] for field in fields(VdimFacts)})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file that `train vdim` has written: its header has no such facts.") from error


def load_vdim_into(model: PreTrainedModel, source: str | Path) -> VdimFacts:
    """Puts a trained up-sampler into the projector of a LLaVA-UHD v2 model, of any head.

    Args:
        model: with tower and projector of the same shape.
        source: see [`find_vdim`].

    Raises:
        ValueError: as [`load_vdim`], or if the model's tower or up-sampler has another shape.
    """
    trained, facts = load_vdim(source)
    config = model.config
    expected = {
        "tower_type": config.vision_config.model_type,
        "channels": config.vision_config.hidden_size,
        "patch_size": config.vision_config.patch_size,
        "steps": max(config.projector_config.levels),
    }
    differing = [
        f"{name} {getattr(facts, name)}, not {ours}" for name, ours in expected.items() if getattr(facts, name) != ours
    ]
    if differing:
        raise ValueError(f"The up-sampler in {source} was trained for another model: {', '.join(differing)}.")
    upsampler = model.base_model.visual.projector.upsampler
    _load(upsampler, trained.state_dict(), Path(source))
    return facts


def _load(upsampler: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        upsampler.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"The tensors in {path} don't fit: {' '.join(str(error).split())}") from error


__all__ = ["VdimFacts", "find_vdim", "load_vdim", "load_vdim_into", "save_vdim"]
