# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Frozen vision towers without a projector: loading, feature maps."""

import torch
from transformers import MODEL_MAPPING, AutoConfig, PreTrainedModel

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.registries_llava_uhd_v2 import TOWERS
from ..model.vision_llava_uhd_v2 import num_read_layers


def load_tower(
    tower: str, vision_feature_layer: int, crop_size: int | None = None
) -> tuple[PreTrainedModel, LlavaUhdV2Config]:
    """A frozen tower in evaluation mode, and the configuration of a model with it, which checks that it fits.

    Args:
        tower: folder or Hub id.
        vision_feature_layer: index of the hidden state that is up-sampled.
        crop_size: side of the images that it will see, in pixels.

    Raises:
        OSError: if there is no such tower.
        ValueError: if it is of a kind or shape that the up-sampler doesn't fit, or weights are missing.
    """
    whole = AutoConfig.from_pretrained(tower)
    config = LlavaUhdV2Config(
        vision_config=getattr(whole, "vision_config", whole), vision_feature_layer=vision_feature_layer
    )
    patch = TOWERS[config.vision_config.model_type].stride(config.vision_config)
    if crop_size is not None and crop_size % patch:
        below = max(crop_size // patch, 1) * patch
        raise ValueError(
            f"`data.crop_size`={crop_size} is no multiple of the tower's patches of {patch} pixels; set it to {below} "
            f"or {below + patch}."
        )
    network, report = MODEL_MAPPING[type(config.vision_config)].from_pretrained(
        tower, config=config.vision_config, dtype=torch.float32, output_loading_info=True
    )
    if report["missing_keys"]:
        raise ValueError(f"The weights of the tower {tower} lack {', '.join(sorted(report['missing_keys']))}.")
    return network.requires_grad_(False).eval(), config


def tower_features(network: PreTrainedModel, pixels: torch.Tensor, config: LlavaUhdV2Config) -> torch.Tensor:
    """Returns the hidden state that is read, as a map: (b, 3, patch * h, patch * w) -> (b, c, h, w)."""
    tower = TOWERS[config.vision_config.model_type]
    [state] = tower.run_layers(network, tower.embed(network, pixels), num_read_layers(config))
    patch = tower.stride(config.vision_config)
    return tower.feature_map(tower.patches(state), (pixels.shape[-2] // patch, pixels.shape[-1] // patch))
