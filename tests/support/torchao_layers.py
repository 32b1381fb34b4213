# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A projector quantised by torchao; `test_projector_layers.py` runs it where torchao is importable."""

from torchao.quantization import Int8WeightOnlyConfig
from transformers import TorchAoConfig

from tests.model.test_projector_layers import check_quantised_layers_are_called, model  # noqa: F401


def test_layers_quantised_by_torchao_are_called(model, tmp_path):  # noqa: F811
    check_quantised_layers_are_called(model, tmp_path, TorchAoConfig(Int8WeightOnlyConfig()))
