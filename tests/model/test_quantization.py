# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Quantised on a CPU: only the text model is, a trained model goes on answering, and saved it answers the same."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel, AutoProcessor, BitsAndBytesConfig

from tests.support.environments import beside_the_environment
from tests.support.finetune_data import write_checkpoint
from tests.support.paths import ROOT
from tests.support.quantized_models import (
    BY_BITSANDBYTES,
    CONTROL,
    KEPT,
    METHODS,
    WIDTH,
    check_what_is_quantised,
    layer_types,
    load,
)


@pytest.fixture(scope="module")
def wide_checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("wide") / "model", WIDTH)


def run_with_torchao(*arguments):
    path = os.pathsep.join(filter(None, [str(ROOT), beside_the_environment("torchao"), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("method", BY_BITSANDBYTES.values(), ids=BY_BITSANDBYTES)
def test_bitsandbytes_quantises_the_text_model_alone(method, wide_checkpoint, tmp_path):
    check_what_is_quantised(wide_checkpoint, tmp_path, method)


@pytest.mark.slow
def test_torchao_quantises_the_text_model_alone():
    """In a process of its own, with torchao from a folder beside the environment's packages."""
    output = run_with_torchao(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests/support/torchao_quantization.py"
    )
    assert "4 passed" in output, output


def test_a_list_of_modules_to_skip_adds_to_tower_and_projector(wide_checkpoint):
    skipping = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["lm_head", "self_attn"])
    types = layer_types(load(wide_checkpoint, quantization_config=skipping))
    assert {part for part, found in types.items() if "Linear4bit of Params4bit" not in found} == KEPT


def test_the_model_without_a_head_too(wide_checkpoint):
    quantised = BitsAndBytesConfig(load_in_4bit=True)
    model = AutoModel.from_pretrained(wide_checkpoint, quantization_config=quantised, device_map="cpu")
    visual = {type(module) for module in model.visual.modules() if isinstance(module, torch.nn.Linear)}
    text = {type(module).__name__ for module in model.language_model.modules() if isinstance(module, torch.nn.Linear)}
    assert visual == {torch.nn.Linear} and text == {"Linear4bit"}


@pytest.mark.parametrize("options", [{}, {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}])
def test_what_quantisers_skip_is_loaded_in_float16_all_the_same(wide_checkpoint, options):
    model = load(wide_checkpoint, dtype=torch.float16, **options)
    assert {parameter.dtype for parameter in model.model.visual.parameters()} == {torch.float16}


def test_the_documented_snippet_runs_as_printed(wide_checkpoint, tmp_path, monkeypatch):
    text = (ROOT / "docs/quantization.md").read_text()
    (tmp_path / "llava-uhd-v2-vicuna-7b").symlink_to(wide_checkpoint)
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)[1], {})  # noqa: S102
    types = layer_types(load(tmp_path / "llava-uhd-v2-vicuna-7b-nf4"))
    assert types["text model"].keys() == {"Linear4bit of Params4bit"}
    AutoProcessor.from_pretrained(tmp_path / "llava-uhd-v2-vicuna-7b-nf4")


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Of a model trained for this, by the benchmark."""
    file = tmp_path_factory.mktemp("quantisation") / "figures.json"
    run_with_torchao(ROOT / "benchmarks/quantization.py", "--repeats", 1, "--json", file)
    return json.loads(file.read_text())["methods"]


@pytest.mark.slow
def test_the_subject_has_something_to_lose(figures):
    """Of answers to questions that chance gets right one time in five; with 2 bits they are lost."""
    # 0.95 on one processor, 0.84 on another: training follows the rounding of its matrix products
    assert figures["float32"]["exact match"] >= 0.75
    assert figures[CONTROL]["exact match"] < 0.3 and figures[CONTROL]["perplexity"] > 2


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_trained_model_goes_on_answering(figures, name):
    quantised, full = figures[name], figures["float32"]
    assert {part for part, found in quantised["layers"].items() if set(found) == {"Linear of Parameter"}} == KEPT
    four_bits = "4" in name
    assert 0 < quantised["change of logits"] < (0.4 if four_bits else 0.05)
    # of 128 answers; another rounding in training already changes a few that the model isn't sure of
    assert quantised["changed answers"] <= (12 if four_bits else 6)
    assert quantised["exact match"] >= full["exact match"] - (0.06 if four_bits else 0.03)
    assert quantised["perplexity"] < 1.1 * full["perplexity"]
    assert quantised["MB in memory"] < full["MB in memory"] and quantised["MB on disk"] < full["MB on disk"]
    assert quantised["tokens/s"]["median"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded_it_gives_the_same_answers(figures, name):
    saved = figures[name]["saved and loaded"]
    assert saved == {"same layers": True, "same answers": True, "largest change of logits": 0.0}


@pytest.mark.slow
def test_sizes_and_speeds_of_a_model_with_random_weights(tmp_path):
    sizes = ["--hidden-size", 256, "--layers", 1, "--repeats", 1, "--new-tokens", 3]
    run_with_torchao(ROOT / "benchmarks/quantization.py", *sizes, "--json", tmp_path / "out.json")
    figures = json.loads((tmp_path / "out.json").read_text())["methods"]
    assert figures.keys() == {"float32", "bfloat16", *METHODS}
    assert figures["float32"]["tokens/s over float32's"]["median"] == 1
    nf4, int8, full = (figures[name]["MB in memory"] for name in ("bitsandbytes nf4", "bitsandbytes int8", "float32"))
    assert nf4 < int8 < full
