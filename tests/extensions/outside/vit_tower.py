# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A vision tower from outside the package: transformers' ViT."""

import torch
from transformers import PreTrainedModel

from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import TOWERS
from llava_uhd_v2_hf.model.towers_llava_uhd_v2 import VisionTower


class VitTower(VisionTower):
    """Its embeddings take views of any size; it has a class token."""

    @staticmethod
    def attention(layer) -> torch.nn.Module:
        return layer.attention

    @staticmethod
    def layers(network: PreTrainedModel) -> torch.nn.ModuleList:
        return network.layers if hasattr(network, "layers") else network.encoder.layer  # before transformers 5.24

    @classmethod
    def unread_parameters(cls, network: PreTrainedModel) -> list[torch.nn.Parameter]:
        return []

    @classmethod
    def embed(cls, network: PreTrainedModel, views: torch.Tensor) -> torch.Tensor:
        return network.embeddings(views, interpolate_pos_encoding=True)


TOWERS["vit"] = VitTower
