# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of conversion, on a checkpoint of half a gigabyte: memory does not grow with the model."""

import importlib.util
import json

import pytest

from tests.support.paths import ROOT


LAYERS = 2  # of the language model and of the tower
NARROWER = {4096: 1024, 11008: 2752, 12288: 3072, 16384: 4096}


def smaller(keys):
    """The names and shapes of Vicuna-7B with fewer layers and a quarter of the text model's width."""
    shapes = {}
    for name, shape in keys["model"].items():
        layer = name.partition(".layers.")[2].partition(".")[0]
        if not layer or int(layer) < LAYERS:
            shapes[name] = shape if "vision_model" in name else [NARROWER.get(side, side) for side in shape]
    text = keys["language_config"] | {
        "hidden_size": 1024,
        "intermediate_size": 2752,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    return keys | {
        "model": shapes,
        "language_config": text,
        "vision_config": keys["vision_config"] | {"num_hidden_layers": LAYERS},
    }


@pytest.mark.slow
def test_memory_stays_small(reference, tmp_path):
    spec = importlib.util.spec_from_file_location("convert_7b", ROOT / "benchmarks/convert_7b.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    keys = smaller(json.loads((reference / "keys_vicuna7b.json").read_text()))
    measured = benchmark.run(tmp_path / "work", keys)
    assert benchmark.folder_size(tmp_path / "work/source") > 3 * 10**8
    assert measured["convert"].peak < 8 * 10**8  # most of it Python and PyTorch; 0.54 GB at 7B
    assert measured["verify"].peak < 8 * 10**8
