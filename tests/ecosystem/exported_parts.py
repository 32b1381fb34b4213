# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What the tests of export share: the functions of examples/export_parts.py, and tiny models and inputs for them."""

import export_parts  # noqa: E402
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

import llava_uhd_v2_hf  # noqa: F401  registers the model
from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module


__all__ = ["Model", "export_parts", "random_views", "reorder_always"]


class Model:
    """A tiny model with one of the up-samplers, and the parts as they are without export."""

    def __init__(self, checkpoint, upsampler="vdim"):
        config = AutoConfig.from_pretrained(checkpoint)
        config.projector_config.upsampler = upsampler
        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint, config=config).eval()
        self.encoder = self.model.model.visual

    @torch.no_grad()
    def features(self, views):
        return self.encoder.encode_views(views)[-1]

    @torch.no_grad()
    def tokens(self, views):
        return self.encoder.project([self.features(views)], [views])[0]


def random_views(count, size):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(count))


@pytest.fixture
def reorder_always(monkeypatch):
    """The projector's fast order, which pays with more channels than a tiny model has."""
    monkeypatch.setattr(projector_module, "reordering_pays", lambda *_: True)
