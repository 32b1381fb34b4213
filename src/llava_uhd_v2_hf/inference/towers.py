# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The frozen vision tower of VDIM pre-training: checked, loaded, run."""

import torch
from transformers import MODEL_MAPPING, AutoConfig, PreTrainedModel

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.vision_llava_uhd_v2 import embed_views, num_prefix_tokens, num_read_layers, tower_layers


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
    patch = config.vision_config.patch_size
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


def tower_features(tower: PreTrainedModel, pixels: torch.Tensor, config: LlavaUhdV2Config) -> torch.Tensor:
    """The hidden state that is read, as a map: (b, 3, patch * h, patch * w) -> (b, c, h, w)."""
    state = embed_views(tower, pixels)
    if hasattr(tower, "pre_layrnorm"):
        state = tower.pre_layrnorm(state)
    for layer in tower_layers(tower)[: num_read_layers(config)]:
        state = layer(state, attention_mask=None)
    grid = [side // config.vision_config.patch_size for side in pixels.shape[-2:]]
    return state[:, num_prefix_tokens(tower) :].transpose(1, 2).unflatten(2, grid)
