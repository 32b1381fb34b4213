# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Vision towers: one adapter for each type of vision model in transformers, with what the vision encoder asks of it.

An adapter has no state: it is a class whose methods take the network. The network stays what transformers makes of its
config, so that its weights keep their names and LoRA, sharding and quantisation find the modules that they know.

Shape letters: v views of one size, c channels, h w patch grid, n = h * w patches.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .gradients_llava_uhd_v2 import call_layer
from .resizing_llava_uhd_v2 import resize


class VisionTower:
    """Adapter of a vision transformer; the base of those for CLIP, SigLIP and DINOv2.

    Attributes:
        num_prefix_tokens (`int`): tokens before the patches, such as the class token.
    """

    num_prefix_tokens: int = 1

    @staticmethod
    def stride(config: PreTrainedConfig) -> int:
        """Returns the side of a patch, in pixels: the height and width of a view are multiples of it."""
        return config.patch_size

    @staticmethod
    def width(config: PreTrainedConfig) -> int:
        """Returns the number of channels of the feature map."""
        return config.hidden_size

    @staticmethod
    def wide_layer_size(config: PreTrainedConfig) -> int:
        """Returns the width of the hidden layer in the feed-forward networks."""
        return config.intermediate_size

    @staticmethod
    def layers(network: PreTrainedModel) -> nn.ModuleList:
        """Returns the layers, in the order in which they run."""
        return network.encoder.layers

    @staticmethod
    def attention(layer: Any) -> nn.Module:
        """Returns the module of a layer whose second output is the attention weights."""
        return layer.self_attn

    @classmethod
    def embedding_modules(cls, network: PreTrainedModel) -> Iterable[nn.Module]:
        """Returns the modules that [`~VisionTower.embed`] runs."""
        return [network.embeddings]

    @classmethod
    def unread_parameters(cls, network: PreTrainedModel) -> Iterable[nn.Parameter]:
        """Returns the parameters of [`~VisionTower.embedding_modules`] that are not read."""
        return []

    @classmethod
    def embed(cls, network: PreTrainedModel, views: torch.Tensor) -> torch.Tensor:
        """Embeds views of any size, positions interpolated: (v, 3, H, W) -> (v, prefix + n, c).

        The network's own interpolation reads its position table as `.weight`, which is empty while the model is
        off-loaded: here every embedding module is called.
        """
        embeddings = network.embeddings
        patches = embeddings.patch_embedding(views.to(embeddings.patch_embedding.weight.dtype))
        grid = (patches.shape[-2], patches.shape[-1])
        positions = embeddings.position_embedding(torch.arange(embeddings.num_positions, device=patches.device))
        return patches.flatten(2).transpose(1, 2) + resize_positions(positions[cls.num_prefix_tokens :], grid)

    @classmethod
    def run_layers(
        cls, network: PreTrainedModel, state: torch.Tensor, count: int, every_state: bool = False, **kwargs
    ) -> list[torch.Tensor]:
        """Runs the first layers.

        Args:
            network: the tower.
            state: (v, prefix + n, c), of [`~VisionTower.embed`].
            count: how many layers.
            every_state: whether to return the hidden states before them, too.
            kwargs: passed to the layers.

        Returns:
            The last hidden state, or all from the first one, each (v, prefix + n, c).
        """
        states = [state]
        for layer in cls.layers(network)[:count]:
            state = call_layer(layer, state, attention_mask=None, **kwargs)
            states = [*states, state] if every_state else [state]
        return states

    @classmethod
    def patches(cls, state: torch.Tensor) -> torch.Tensor:
        """Returns a hidden state without the prefix: (v, prefix + n, c) -> (v, n, c)."""
        return state[:, cls.num_prefix_tokens :]

    @staticmethod
    def feature_map(patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Returns patches as a map of features: (v, n, c) -> (v, c, h, w)."""
        return patches.mT.unflatten(2, grid)


class ClipTower(VisionTower):
    """Adapter of `CLIPVisionModel`: a class token, and a layer norm before the layers."""

    @classmethod
    def embedding_modules(cls, network: PreTrainedModel) -> Iterable[nn.Module]:
        """Returns the embeddings and the layer norm behind them."""
        return [network.embeddings, network.pre_layrnorm]

    @classmethod
    def embed(cls, network: PreTrainedModel, views: torch.Tensor) -> torch.Tensor:
        """Embeds views of any size, with the layer norm: (v, 3, H, W) -> (v, 1 + n, c)."""
        return network.pre_layrnorm(cls.embed_unnormalized(network, views))

    @classmethod
    def embed_unnormalized(cls, network: PreTrainedModel, views: torch.Tensor) -> torch.Tensor:
        """Embeds views of any size, without the layer norm: (v, 3, H, W) -> (v, 1 + n, c)."""
        states = super().embed(network, views)
        embeddings = network.embeddings
        # the class token lies in the module itself, which must be called for it: any image of its native size will do
        native = views.new_zeros(1, 3, embeddings.image_size, embeddings.image_size)
        class_token = embeddings(native)[:, :1]
        return torch.cat([class_token.expand(views.shape[0], -1, -1), states], dim=1)


class SiglipTower(VisionTower):
    """Adapter of `SiglipVisionModel`: no class token."""

    num_prefix_tokens = 0


class Dinov2Tower(VisionTower):
    """Adapter of `Dinov2Model`: its own embeddings take views of any size; its mask token is for pre-training."""

    @staticmethod
    def wide_layer_size(config: PreTrainedConfig) -> int:
        """Returns the width of the hidden layer in the feed-forward networks."""
        return config.mlp_ratio * config.hidden_size

    @staticmethod
    def layers(network: PreTrainedModel) -> nn.ModuleList:
        """Returns the layers, in the order in which they run."""
        return network.encoder.layer

    @staticmethod
    def attention(layer: Any) -> nn.Module:
        """Returns the module of a layer whose second output is the attention weights."""
        return layer.attention

    @classmethod
    def unread_parameters(cls, network: PreTrainedModel) -> Iterable[nn.Parameter]:
        """Returns the mask token, where there is one."""
        return [] if network.embeddings.mask_token is None else [network.embeddings.mask_token]

    @classmethod
    def embed(cls, network: PreTrainedModel, views: torch.Tensor) -> torch.Tensor:
        """Embeds views of any size: (v, 3, H, W) -> (v, 1 + n, c)."""
        return network.embeddings(views)


def resize_positions(positions: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Resizes a square position table by bicubic interpolation: (side * side, c) -> (h * w, c)."""
    side = int(len(positions) ** 0.5)
    if grid == (side, side):
        return positions
    table = positions.float().view(side, side, -1).permute(2, 0, 1)
    return resize(table, grid, "bicubic").flatten(1).T.to(positions.dtype)


__all__ = ["ClipTower", "Dinov2Tower", "SiglipTower", "VisionTower"]
