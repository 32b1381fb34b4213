# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Export into the released layout: names and shapes at real size, and there and back again bit for bit."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.conversion import export as exporting
from llava_uhd_v2_hf.conversion.convert import released_names
from llava_uhd_v2_hf.conversion.export import export_checkpoint, exported_tensors
from llava_uhd_v2_hf.conversion.released_config import build_config, build_text_config, build_vision_config
from llava_uhd_v2_hf.conversion.weight_map import model_shapes, plan_weights
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import POOLING_GRIDS
from tests.support.checkpoints import EXPECTED, convert, edit_json, read_weights, write_released


@pytest.fixture(scope="module", params=EXPECTED)
def released(request, reference, tmp_path_factory):
    """One tiny checkpoint of each kind; read it, don't write to it."""
    return write_released(reference, request.param, tmp_path_factory.mktemp("released") / request.param)


@pytest.fixture(scope="module")
def ours(released, tmp_path_factory):
    return convert(released, tmp_path_factory.mktemp("ours") / released.name)


@pytest.fixture(scope="module")
def exported(ours, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / ours.name
    export_checkpoint(ours, output)
    return output


@pytest.fixture
def checkpoint(converted_checkpoint, tmp_path):
    """A tiny checkpoint of ours to be spoilt."""
    return shutil.copytree(converted_checkpoint, tmp_path / "ours")


def refused(source, *messages):
    with pytest.raises(ValueError) as error:
        export_checkpoint(source, source.parent / "exported")
    for message in messages:
        assert message in str(error.value)
    assert not (source.parent / "exported").exists()


@pytest.mark.parametrize("name", ["vicuna7b", "qwen2_7b", "vicuna13b"])
def test_names_and_shapes_are_exactly_the_released_ones(reference, name, monkeypatch):
    recorded = json.loads((reference / f"keys_{name}.json").read_text())
    values = recorded["language_config"] | {
        "model_type": "llava_qwen" if "Qwen" in recorded["model_class"] else "llava_llama",
        "feature_scale_mask": recorded["feature_scale_mask"],
        "mm_projector_type": "adapt_spatial_resampler" + ("" if name == "vicuna7b" else "_v2"),
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    }
    config = build_config(values, build_text_config(values), build_vision_config(values, None), 13)
    monkeypatch.setattr(exporting, "_fill", lambda shape, *_: torch.empty(shape, device="meta"))
    tensors, origins = exported_tensors(None, config, config.text_config.vocab_size)
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == recorded["model"]
    assert origins.keys() == tensors.keys()


def test_ours_to_released_to_ours_is_bit_identical(ours, exported, released, tmp_path):
    again = convert(exported, tmp_path / "again", vision_config=released / "vision_tower_config.json")
    for path in ours.iterdir():
        if path.name != "conversion.json":
            assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_every_used_tensor_comes_back_and_unused_ones_are_filled(released, ours, exported, capsys):
    before, after = read_weights(released), read_weights(exported)
    assert before.keys() == after.keys()
    config = AutoModelForImageTextToText.from_pretrained(ours).config
    plan = plan_weights(
        {name: list(x.shape) for name, x in before.items()}, model_shapes(config), config.projector_config
    )
    for name in released_names(plan):
        assert torch.equal(before[name], after[name]), name
    for name in plan.unused:
        assert before[name].shape == after[name].shape
        assert after[name].dtype == torch.bfloat16
    copy, tower = "model.mm_projector.upsampler.model.0.vision_tower.", "model.vision_tower.vision_tower."
    copied = [name for name in after if name.startswith(copy)]
    assert len(copied) == 55
    for name in copied:
        assert torch.equal(after[name], after[tower + name.removeprefix(copy)]), name
    assert 0.015 < after["model.mm_projector.query"].float().std() < 0.025
    assert (after["model.mm_projector.upsampler.model.1.norm.weight"] == 1).all()
    record = json.loads((exported / "conversion.json").read_text())
    filled = {name for names in record["filled"].values() for name in names}
    assert filled == plan.unused.keys()


def test_table_says_how_unused_tensors_were_filled(converted_checkpoint, tmp_path):
    result = CliRunner().invoke(app, ["export-released", str(converted_checkpoint), str(tmp_path / "exported")])
    assert result.exit_code == 0, result.output
    assert "55  copied from the vision tower" in result.output
    assert "initialised (normal): model.mm_projector.kv_proj.weight" in result.output
    result = CliRunner().invoke(app, ["export-released", str(tmp_path / "exported"), str(tmp_path / "again")])
    assert result.exit_code == 1
    assert "`model_type`='llava_llama'" in result.output


def test_the_tokenizer_is_the_authors(released, ours, exported):
    for folder in (ours, exported):
        if (released / "tokenizer.model").is_file():  # not of Qwen2
            assert (folder / "tokenizer.model").read_bytes() == (released / "tokenizer.model").read_bytes()
    theirs, back = (AutoTokenizer.from_pretrained(folder) for folder in (released, exported))
    assert back.get_vocab() == theirs.get_vocab()
    assert "<image>" not in (exported / "tokenizer_config.json").read_text()
    text = "A chat. USER: <image>\nWhere? ASSISTANT: 12:30</s>"
    assert back(text)["input_ids"] == theirs(text)["input_ids"]


def test_released_configuration_comes_back(released, exported):
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (released, exported))
    # Qwen2's own configuration forgets the window where it is not used
    forgotten = {"transformers_version", *(["sliding_window"] if not before.get("use_sliding_window") else [])}
    assert {key: after.get(key, "absent") for key in before if key not in forgotten} == {
        key: value for key, value in before.items() if key not in forgotten
    }
    before, after = (json.loads((folder / "generation_config.json").read_text()) for folder in (released, exported))
    forgotten = {"_from_model_config", "transformers_version"}
    assert after.keys() - forgotten == before.keys() - forgotten | {"pad_token_id"}


@pytest.mark.parametrize("trained", [False, True])
def test_rows_that_nothing_trained_are_left_out_again(reference, tmp_path, trained):
    source = write_released(reference, "c_llama", tmp_path / "source")
    ours = convert(source, tmp_path / "ours", skip_tokenizer=True)
    weights = read_weights(ours)
    assert weights["lm_head.weight"].shape[0] == 32001
    if trained:
        weights["lm_head.weight"][32000, 5] = 1
        save_file(weights, ours / "model.safetensors")
    export_checkpoint(ours, tmp_path / "exported")
    rows = 32001 if trained else 32000
    assert read_weights(tmp_path / "exported")["model.embed_tokens.weight"].shape[0] == rows
    assert json.loads((tmp_path / "exported/config.json").read_text())["vocab_size"] == rows
    assert "suppress_tokens" not in json.loads((tmp_path / "exported/generation_config.json").read_text())


def test_tied_embeddings_are_written_twice(reference, tmp_path):
    source = write_released(reference, "c_llama", tmp_path / "source")
    edit_json(source / "config.json", tie_word_embeddings=True)
    weights = read_weights(source)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, source / "model.safetensors")
    ours = convert(source, tmp_path / "ours")
    export_checkpoint(ours, tmp_path / "exported")
    after = read_weights(tmp_path / "exported")
    assert after.keys() == weights.keys()
    assert torch.equal(after["lm_head.weight"], weights["lm_head.weight"])
    vision_config = source / "vision_tower_config.json"
    again = convert(tmp_path / "exported", tmp_path / "again", vision_config=vision_config)
    assert (again / "model.safetensors").read_bytes() == (ours / "model.safetensors").read_bytes()


def test_refuses_what_the_released_code_cannot_compute(checkpoint, monkeypatch):
    config = json.loads((checkpoint / "config.json").read_text())
    edit_json(checkpoint / "config.json", row_separator_id=14, slice_separator_id=44)
    refused(checkpoint, "`row_separator_id`=14, must be 13", "`slice_separator_id`=44")
    config["projector_config"] |= {"query_grid": [6, 24], "layer_norm_eps": 1e-5}
    (checkpoint / "config.json").write_text(json.dumps(config))
    refused(checkpoint, "`projector_config.query_grid`=[6, 24], must be [12, 12]", "layer_norm_eps")
    monkeypatch.setitem(POOLING_GRIDS, "square", lambda height, width, level, candidates: (2, 2))
    config["projector_config"] |= {"pooling_grid_rule": "square"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    refused(checkpoint, "`projector_config.pooling_grid_rule`=square, must be selective")


def test_refuses_weights_that_do_not_fit(checkpoint):
    weights = read_weights(checkpoint)
    del weights["model.language_model.norm.weight"]
    save_file(weights | {"extra": torch.zeros(1)}, checkpoint / "model.safetensors")
    refused(checkpoint, "missing: `model.language_model.norm.weight`", "unknown: `extra`")
