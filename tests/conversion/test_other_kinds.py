# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Released checkpoints with the projectors that the paper compares with: to ours and back."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from llava_uhd_v2_hf.conversion.export import export_checkpoint
from llava_uhd_v2_hf.conversion.verify import verify_checkpoint
from tests.support.checkpoints import convert, edit_json, read_weights, write_released


PROJECTOR = "model.mm_projector."
CHANNELS, WIDTH = 64, 128  # of the recorded tower and text model
V1, V2 = {"model_mode": "uhd_v1"}, {"model_mode": "uhd_v2"}
# kind: keys of the released config.json, queries, what our config says
KINDS = {
    "v1 release": ({"mm_projector_type": "adapt_spatial_resampler"}, 144, {"projector_type": "uhd_v1", "levels": [0]}),
    "v1": ({"mm_projector_type": "adapt_spatial_resampler_v1", **V1}, 144, {"projector_type": "uhd_v1"}),
    "v1, 64 queries": ({"mm_projector_type": "uhd_v1_query64", **V1}, 64, {"query_grid": [8, 8], "levels": [0]}),
    "mlp-v2": (
        {"mm_projector_type": "mlp-v2", "feature_scale_mask": 5, **V2},
        144,
        {"projector_type": "mlp_pyramid", "mlp_depth": 2, "levels": [0, 2]},
    ),
    "mlp144": ({"mm_projector_type": "mlp144", **V2}, 144, {"mlp_depth": 1, "levels": [0, 1, 2]}),
    "percive_sampler": (
        {"mm_projector_type": "percive_sampler", "feature_scale_mask": 5, **V2},
        144,
        {"projector_type": "perceiver", "perceiver_positions": False, "levels": [0, 2]},
    ),
}


def projector_shapes(kind: str, queries: int) -> dict[str, tuple[int, ...]]:
    """Every parameter of the authors' class, but for its up-sampler."""
    d, c = WIDTH, CHANNELS
    attention = {"attn.in_proj_weight": (3 * d, d), "attn.in_proj_bias": (3 * d,), "attn.out_proj.weight": (d, d)}
    shapes = {"pos_embed": (queries, d), "query": (queries, d), "kv_proj.weight": (d, c), **attention}
    norms = ["ln_q", "ln_kv", "ln_post"]
    shapes["attn.out_proj.bias"] = (d,)
    if kind.startswith("v1"):
        shapes["proj"] = (d, d)
    else:
        norms.append("ln_proj")
        shapes |= {"cat_proj.weight": (d, 4 * d), "cat_proj.bias": (d,)}
    if kind.startswith("mlp"):
        shapes |= {"conv_pool.weight": (c, c, 2, 2), "conv_pool.bias": (c,), "proj.1.bias": (d,)}
        shapes["proj.1.weight"] = (d, (2 if kind == "mlp-v2" else 3) * c)
    if kind == "mlp-v2":
        shapes |= {"proj.3.weight": (d, d), "proj.3.bias": (d,)}
    if kind == "percive_sampler":
        shapes |= {"conv_pool.weight": (d, c, 2, 2), "conv_pool.bias": (d,), "latent_tokens": (1, 4096, c)}
        shapes |= {"ffn.0.weight": (c, c), "ffn.0.bias": (c,), "ffn.2.weight": (d, c), "ffn.2.bias": (d,)}
        shapes["proj"] = (c, d)
    for norm in norms:
        shapes |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    return shapes


def write_kind(reference: Path, kind: str, folder: Path) -> Path:
    """The recorded checkpoint with another projector; the pyramid's keep its up-sampler and the copy of the tower."""
    write_released(reference, "c_llama", folder)
    keys, queries, _ = KINDS[kind]
    values = json.loads((folder / "config.json").read_text())
    for key in ("feature_mode", "model_mode", "feature_scale_mask"):
        values.pop(key, None)
    (folder / "config.json").write_text(json.dumps(values | keys))
    kept = () if kind.startswith("v1") else (f"{PROJECTOR}upsampler.",)
    weights = read_weights(folder)
    weights = {
        name: tensor for name, tensor in weights.items() if not name.startswith(PROJECTOR) or name.startswith(kept)
    }
    generator = torch.Generator().manual_seed(0)
    for name, shape in projector_shapes(kind, queries).items():
        weights[PROJECTOR + name] = torch.randn(shape, generator=generator).bfloat16()
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module", params=KINDS)
def released(request, reference, tmp_path_factory) -> tuple[str, Path]:
    return request.param, write_kind(reference, request.param, tmp_path_factory.mktemp("released") / "checkpoint")


def test_there_and_back_is_bit_identical(released, tmp_path, capsys):
    kind, source = released
    ours = convert(source, tmp_path / "ours", skip_tokenizer=True)
    keys, _, expected = KINDS[kind]
    assert repr(keys["mm_projector_type"]) in capsys.readouterr().out
    config = json.loads((ours / "config.json").read_text())
    assert config["token_layout"] == "sequential"
    assert expected.items() <= config["projector_config"].items()
    assert AutoImageProcessor.from_pretrained(ours).max_slices == (7 if kind == "v1 release" else 9)
    _, report = AutoModelForImageTextToText.from_pretrained(ours, output_loading_info=True)
    assert not any(report.values()), report

    assert verify_checkpoint(source, ours)
    found = re.search(r"^projector +(\d+)", capsys.readouterr().out, re.MULTILINE)
    assert found and int(found[1]) > 0

    exported = tmp_path / "exported"
    export_checkpoint(ours, exported)
    before, after = read_weights(source), read_weights(exported)
    assert {name: tensor.shape for name, tensor in before.items()} == {
        name: tensor.shape for name, tensor in after.items()
    }
    record = json.loads((ours / "conversion.json").read_text())
    unused = {name for names in record["unused"].values() for name in names}
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - unused)
    assert bool(unused) != kind.startswith("v1")
    values = json.loads((exported / "config.json").read_text())
    if kind != "v1 release":  # which the code of v2 has under another name
        assert keys.items() <= values.items()

    again = convert(
        exported, tmp_path / "again", vision_config=source / "vision_tower_config.json", skip_tokenizer=True
    )
    for name in ("config.json", "model.safetensors"):
        assert (ours / name).read_bytes() == (again / name).read_bytes()


@pytest.mark.parametrize(
    ("kind", "changes", "messages"),
    [
        ("mlp144", {"feature_scale_mask": 5}, ["`feature_scale_mask`=5", "[0, 2]", "mlp144", "fit 7"]),
        ("mlp-v2", {"feature_scale_mask": None}, ["`feature_scale_mask`=7", "[0, 1, 2]", "mlp-v2", "fit 3 or 5"]),
        ("percive_sampler", {"feature_scale_mask": 4}, ["`levels`=[2]", "perceiver"]),
        ("v1", {"model_mode": "uhd_v2"}, ["`model_mode`='uhd_v2'", "'uhd_v1'"]),
        ("v1 release", {"mm_projector_type": "mlp2x_gelu"}, ["mlp2x_gelu", "percive_sampler"]),
    ],
)
def test_what_a_kind_can_not_be_is_named(reference, tmp_path, kind, changes, messages):
    source = write_kind(reference, kind, tmp_path / "source")
    edit_json(source / "config.json", **changes)
    with pytest.raises(ValueError) as error:
        convert(source, tmp_path / "ours", skip_tokenizer=True)
    assert all(message in str(error.value) for message in messages)


def test_without_a_scale_mask_the_default_of_the_code_is_taken(reference, tmp_path, capsys):
    source = write_released(reference, "c_llama", tmp_path / "source")
    edit_json(source / "config.json", feature_scale_mask=None)
    ours = convert(source, tmp_path / "ours", skip_tokenizer=True)
    assert json.loads((ours / "config.json").read_text())["projector_config"]["levels"] == [0, 1, 2]
    assert "config.json has no `feature_scale_mask`" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"projector_type": "mlp", "levels": [0]}, ["`projector_config.projector_type`=mlp", "perceiver"]),
        ({"perceiver_positions": True}, ["`projector_config.perceiver_positions`=True, must be False"]),
        ({"levels": [0]}, ["`projector_config.levels`=[0], must be [0, 1] or [0, 2] or [0, 1, 2]"]),
    ],
)
def test_exports_refuse_what_was_not_released(reference, tmp_path, changes, messages, monkeypatch):
    monkeypatch.setattr("llava_uhd_v2_hf.conversion.export.refuse_other_tensors", lambda *_: None)
    ours = convert(
        write_kind(reference, "percive_sampler", tmp_path / "source"), tmp_path / "ours", skip_tokenizer=True
    )
    config = json.loads((ours / "config.json").read_text())
    edit_json(ours / "config.json", projector_config=config["projector_config"] | changes)
    with pytest.raises(ValueError) as error:
        export_checkpoint(ours, tmp_path / "exported")
    assert all(message in str(error.value) for message in messages)
