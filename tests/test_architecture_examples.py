# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The worked examples of docs/architecture.md run as printed, and its paths exist."""

import re

import pytest
import torch
from PIL import Image

from llava_uhd_v2_hf import LlavaUhdV2ForConditionalGeneration, LlavaUhdV2ImageProcessor
from llava_uhd_v2_hf.data.sources import SOURCES
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import POOLING_GRIDS, PROJECTORS, TOWERS, UPSAMPLERS
from llava_uhd_v2_hf.training.stage import read_stage
from tests.support.paths import ROOT


PAGE = (ROOT / "docs/architecture.md").read_text()
PACKAGE = ROOT / "src/llava_uhd_v2_hf"

# file -> registry, name, options of the projector, type of the vision tower
KINDS = {
    "nearest_upsampler.py": (UPSAMPLERS, "nearest", {"upsampler": "nearest"}, "clip_vision_model"),
    "mlp_projector.py": (
        PROJECTORS,
        "one token a patch",
        {"projector_type": "one token a patch"},
        "clip_vision_model",
    ),
    "pooling_by_level.py": (POOLING_GRIDS, "by_level", {"pooling_grid_rule": "by_level"}, "clip_vision_model"),
    "dinov2_with_registers.py": (TOWERS, "dinov2_with_registers", {}, "dinov2_with_registers"),
}


def read_example(name: str) -> str:
    """The text of the example that begins with a comment with the name of its file."""
    [text] = re.findall(rf"^```\w+\n(# {re.escape(name)}\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return text


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_the_model_encodes_an_image(name, tiny_config):
    registry, kind, options, tower = KINDS[name]
    try:
        exec(read_example(name), {"__name__": name})  # noqa: S102
        config = tiny_config.to_dict()
        config["projector_config"] |= options
        config["vision_config"] |= {"model_type": tower}
        model = LlavaUhdV2ForConditionalGeneration(type(tiny_config)(**config)).eval()
        image = Image.effect_mandelbrot((150, 90), (-2, -1.2, 1, 1.2), 20).convert("RGB")
        inputs = LlavaUhdV2ImageProcessor(slice_resolution=56, max_slices=4)(image, return_tensors="pt")
        with torch.no_grad():
            [tokens] = model.get_image_features(**inputs).pooler_output
        assert tokens.shape[1] == config["text_config"]["hidden_size"] and tokens.isfinite().all()
    finally:
        registry.pop(kind, None)


def test_the_text_model_is_composed():
    [text] = re.findall(r"### A text model\n.*?```python\n(.*?)```", PAGE, re.DOTALL)
    exec(text, namespace := {})  # noqa: S102
    config = namespace["config"]
    assert namespace["model"].get_output_embeddings().out_features == config.text_config.vocab_size
    assert config.text_config.model_type == "gemma2"


def test_the_data_format_yields_places_and_records(tmp_path):
    (tmp_path / "samples.csv").write_text("image,question,answer\na.png,What?,A boat\n")
    try:
        exec(read_example("csv_format.py"), namespace := {})  # noqa: S102
        [(place, record)] = namespace["read_csv"](str(tmp_path / "samples.csv"), "train")
        assert place.endswith("samples.csv:2") and record["image"] == "a.png"
        assert ".csv" in SOURCES
    finally:
        SOURCES.pop(".csv", None)


def test_the_stage_is_read(tmp_path):
    (tmp_path / "align.yaml").write_text(read_example("align.yaml"))
    stage = read_stage(str(tmp_path / "align.yaml"))
    assert stage.save == "trained" and set(stage.recipe["parts"]) == {"fixups", "positions"}


def test_every_path_exists():
    paths = re.findall(r"`((?:[a-z0-9_]+/)+(?:[a-z0-9_]+\.py)?)`", PAGE)
    assert {"model/geometry_llava_uhd_v2.py", "training/stages/", "model_cards/"} <= set(paths)
    tests = [f"tests/{name}" for name in ("support/", "golden/", "ecosystem/", "upstream/")]
    places = [PACKAGE, ROOT, ROOT / "tests"]
    assert [path for path in [*paths, *tests] if not any((place / path).exists() for place in places)] == []


def test_every_room_is_described():
    rooms = {f"`{path.parent.name}/`" for path in PACKAGE.glob("*/__init__.py")}
    described = set(re.findall(r"^\| (`\w+/`) \|", PAGE, re.MULTILINE))
    assert rooms - described == set()
