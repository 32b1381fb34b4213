# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What torchao quantises of a model; `test_quantization.py` runs it where torchao is importable."""

import re

import pytest
import torch
import torchao.quantization
import transformers

from tests.support.finetune_data import write_checkpoint
from tests.support.paths import ROOT
from tests.support.quantized_models import BY_TORCHAO, METHODS, WIDTH, check_what_is_quantised


@pytest.mark.parametrize("method", BY_TORCHAO.values(), ids=BY_TORCHAO)
def test_torchao_quantises_the_text_model_alone(method, tmp_path):
    check_what_is_quantised(write_checkpoint(tmp_path / "model", WIDTH), tmp_path / "saved", method)


def test_the_documented_configs_are_those_that_are_tested():
    rows = re.findall(
        r"^\| ([^|]+) \| `(\w+Config\(.*\))` \|$", (ROOT / "docs/quantization.md").read_text(), re.MULTILINE
    )
    names = vars(transformers.utils.quantization_config) | vars(torchao.quantization) | {"torch": torch}
    documented = {name: eval(config, names).to_dict() for name, config in rows}  # noqa: S307
    assert documented == {name: method.make_config().to_dict() for name, method in METHODS.items()}
