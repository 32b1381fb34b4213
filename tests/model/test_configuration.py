# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Configuration: defaults, saving and loading, and an error that names every bad value."""

import json

import pytest
from transformers import AutoConfig, CLIPVisionConfig, Qwen2Config

from llava_uhd_v2_hf.model.configuration_llava_uhd_v2 import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.model.registries_llava_uhd_v2 import POOLING_GRIDS, PROJECTORS


# Every field of ours away from its default.
CHANGED = {
    "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 96, "num_hidden_layers": 4},
    "text_config": {"model_type": "qwen2", "hidden_size": 256, "vocab_size": 1000},
    "image_token_id": 990,
    "token_layout": "sequential",
    "row_separator_id": 7,
    "slice_separator_id": 8,
    "vision_feature_layer": 3,
    "tie_word_embeddings": True,
}
CHANGED_PROJECTOR = {
    "projector_type": "another projector",
    "upsampler": "bilinear",
    "levels": [0, 2],
    "num_query_sets": 1,
    "query_grid": [8, 6],
    "pooling_grids": [[2, 2], [1, 3]],
    "pooling_grid_rule": "another rule",
    "mlp_depth": 1,
    "perceiver_grid": [6, 4],
    "perceiver_positions": True,
    "num_attention_heads": 4,
    "layer_norm_eps": 1e-5,
    "upsampler_kernel_size": 5,
    "upsampler_guidance_size": 16,
    "upsampler_dropout": 0.0,
    "fixup_dropout": 0.5,
    "initializer_range": 0.01,
}


@pytest.fixture
def other_kinds(monkeypatch):
    """Names for which there is one kind in the package; the projector reads every option."""
    monkeypatch.setitem(PROJECTORS, "another projector", type("Other", (), dict.fromkeys(PROJECTORS.interface)))
    monkeypatch.setitem(POOLING_GRIDS, "another rule", object)


def as_saved(config):
    values = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in values.items() if name != "_name_or_path"}


def test_defaults_are_the_released_vicuna_7b():
    config = LlavaUhdV2Config()
    vision, text, projector = config.vision_config, config.text_config, config.projector_config
    assert (vision.model_type, vision.hidden_size, vision.num_hidden_layers) == ("clip_vision_model", 1024, 24)
    assert (vision.image_size, vision.patch_size, config.vision_feature_layer) == (336, 14, -2)
    assert (text.model_type, text.hidden_size, text.num_hidden_layers) == ("llama", 4096, 32)
    assert (text.vocab_size, config.image_token_id) == (32001, 32000)
    assert (config.row_separator_id, config.slice_separator_id) == (13, 29892)
    assert config.token_layout == "spatial"
    assert (projector.levels, projector.num_query_sets, projector.query_grid) == ([0, 1, 2], 4, [12, 12])
    assert projector.num_attention_heads == 32
    assert projector.pooling_grids == [[2, 4], [2, 3], [3, 4], [3, 3], [4, 2], [3, 2], [4, 3]]
    assert config.get_text_config() is text


def test_every_field_survives_saving(tmp_path, other_kinds):
    config = LlavaUhdV2Config(**CHANGED, projector_config=CHANGED_PROJECTOR)
    for name in set(CHANGED) - {"vision_config", "text_config"}:
        assert getattr(config, name) == CHANGED[name]
    for name, value in CHANGED_PROJECTOR.items():
        assert getattr(config.projector_config, name) == value

    config.save_pretrained(tmp_path)
    for loaded in (LlavaUhdV2Config.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is LlavaUhdV2Config
        assert as_saved(loaded) == as_saved(config)


def test_all_own_fields_are_tested():
    """A new field has to be added above."""
    own = set(LlavaUhdV2Config.__annotations__) - {"model_type", "sub_configs", "keys_to_ignore_at_inference"}
    assert own == {*CHANGED, "projector_config"}
    assert set(LlavaUhdV2ProjectorConfig.__annotations__) == set(CHANGED_PROJECTOR)


def test_sub_configs_may_be_objects():
    config = LlavaUhdV2Config(
        vision_config=CLIPVisionConfig(hidden_size=96),
        text_config=Qwen2Config(hidden_size=384),
        projector_config=LlavaUhdV2ProjectorConfig(num_query_sets=2),
    )
    assert config.vision_config.hidden_size == 96
    assert config.text_config.model_type == "qwen2"
    assert config.projector_config.num_query_sets == 2
    assert config.projector_config.num_attention_heads == 3  # one for every 128 channels


def test_a_sub_config_without_type_has_the_default_one():
    config = LlavaUhdV2Config(vision_config={"hidden_size": 96}, text_config={"hidden_size": 64, "vocab_size": 32001})
    assert (config.vision_config.model_type, config.text_config.model_type) == ("clip_vision_model", "llama")
    assert config.projector_config.num_attention_heads == 1


def test_embeddings_are_tied_where_the_text_config_says_so():
    tied = {"model_type": "qwen2", "tie_word_embeddings": True}
    assert LlavaUhdV2Config(text_config=tied).tie_word_embeddings is True
    assert LlavaUhdV2Config(text_config=tied, tie_word_embeddings=False).tie_word_embeddings is False
    assert LlavaUhdV2Config().tie_word_embeddings is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("upsampler", "nearest"),
        ("projector_type", "mlp9"),
        ("projector_type", 4),
        ("pooling_grid_rule", "largest"),
        ("levels", [1, 2]),
        ("levels", [0, 3]),
        ("levels", []),
        ("levels", 2),
        ("num_query_sets", 0),
        ("num_query_sets", "four"),
        ("query_grid", [12]),
        ("query_grid", [12, 0]),
        ("mlp_depth", 0),
        ("mlp_depth", 1),
        ("perceiver_grid", [24]),
        ("perceiver_positions", True),
        ("pooling_grids", []),
        ("pooling_grids", [[3, 3], [0, 2]]),
        ("num_attention_heads", 0),
        ("layer_norm_eps", 0.0),
        ("upsampler_kernel_size", 6),
        ("upsampler_kernel_size", -1),
        ("upsampler_guidance_size", 0),
        ("upsampler_dropout", 1.0),
        ("fixup_dropout", -0.1),
        ("initializer_range", 0.0),
        ("num_querysets", 4),
    ],
)
def test_bad_projector_values_are_named(name, value):
    for build in (
        lambda: LlavaUhdV2ProjectorConfig(**{name: value}),
        lambda: LlavaUhdV2Config(projector_config={name: value}),
    ):
        with pytest.raises(ValueError, match=name) as error:
            build()
        assert str(value) in str(error.value)


@pytest.mark.parametrize(
    ("projector", "name", "value", "remedy"),
    [
        ("uhd_v1", "levels", [0, 1], "[0], [1], [2], [3]"),
        ("mlp", "levels", [0, 1, 2], "[0]"),
        ("perceiver", "levels", [1, 2], "[0, 1, 2], [0], [0, 1]"),
        ("mlp_pyramid", "levels", [2], "[0, 1, 2], [0], [0, 1]"),
        ("uhd_v1", "num_query_sets", 1, "hiwin"),
        ("perceiver", "pooling_grids", [[3, 3]], "hiwin, uhd_v1"),
        ("mlp_pyramid", "pooling_grid_rule", "another rule", "hiwin, uhd_v1"),
        ("mlp", "query_grid", [8, 8], "hiwin, uhd_v1, mlp_pyramid, perceiver"),
        ("mlp", "mlp_depth", 1, "mlp_pyramid"),
        ("mlp_pyramid", "perceiver_positions", True, "perceiver"),
    ],
)
def test_values_of_another_projector_are_named_with_the_remedy(projector, name, value, remedy, other_kinds):
    with pytest.raises(ValueError) as error:
        LlavaUhdV2ProjectorConfig(**{"projector_type": projector, name: value})
    for part in (f"`{name}`={value}", f"`{projector}`", remedy):
        assert part in str(error.value)


def test_levels_are_by_default_those_of_the_projector():
    levels = {kind: LlavaUhdV2ProjectorConfig(projector_type=kind).levels for kind in ("hiwin", "uhd_v1", "mlp")}
    assert levels == {"hiwin": [0, 1, 2], "uhd_v1": [0], "mlp": [0]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_layout": "spiral"}, "token_layout.*spiral"),
        ({"image_token_id": 32001}, "`image_token_id`=32001 .*vocabulary of 32001"),
        ({"image_token_id": "<image>"}, "image_token_id.*<image>"),
        ({"row_separator_id": -1}, "`row_separator_id`=-1"),
        ({"slice_separator_id": 40000}, "`slice_separator_id`=40000"),
        ({"vision_feature_layer": 25}, "`vision_feature_layer`=25 .*-25 to 24"),
        ({"vision_feature_layer": -26}, "`vision_feature_layer`=-26"),
        ({"mm_projector_type": "mlp"}, "`mm_projector_type`='mlp'"),
        ({"text_config": {"hidden_size": 6, "num_attention_heads": 3}}, "`hidden_size`=6 .*multiple of 4"),
        ({"text_config": {"model_type": "lama"}}, "`lama`"),
        ({"text_config": {"model_type": "llava"}}, "`llava` has no `hidden_size`"),
        ({"vision_config": {"model_type": "beit"}}, "`beit` is not supported"),
        ({"vision_config": {"num_channels": 1}}, "`num_channels` is 1"),
        ({"projector_config": {"num_attention_heads": 5}}, "`hidden_size`=4096 .*`num_attention_heads`=5"),
    ],
)
def test_bad_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        LlavaUhdV2Config(**fields)


def test_a_projector_config_that_two_models_share_is_completed_for_each():
    shared = LlavaUhdV2ProjectorConfig()
    heads = [
        LlavaUhdV2Config(text_config={**text, "vocab_size": 32001}, projector_config=shared).projector_config
        for text in ({"hidden_size": 4096}, {"hidden_size": 3584, "num_attention_heads": 28})
    ]
    assert [config.num_attention_heads for config in heads] == [32, 28]
    assert shared.num_attention_heads is None


def test_code_is_named_where_there_is_some(tmp_path):
    config = LlavaUhdV2Config()
    config.save_pretrained(tmp_path)
    assert config.auto_map == {} and "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    config.auto_map["AutoModel"] = "modeling.Model"
    assert LlavaUhdV2Config().auto_map == {}
    config.save_pretrained(tmp_path)
    assert LlavaUhdV2Config.from_pretrained(tmp_path).auto_map == {"AutoModel": "modeling.Model"}
