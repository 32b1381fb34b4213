# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Conversion of released checkpoints: names and shapes at real size, tiny recorded ones from end to end."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, GenerationConfig, LlamaConfig
from typer.testing import CliRunner

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.conversion import convert as convert_module
from llava_uhd_v2_hf.conversion import weight_files
from llava_uhd_v2_hf.conversion.released_config import build_config, build_text_config, build_vision_config
from llava_uhd_v2_hf.conversion.weight_map import build_rules, model_shapes, plan_weights, with_rows
from tests.support.checkpoints import EXPECTED, convert, edit_json, read_weights, write_released


PROJECTOR = "model.visual.projector."
RELEASED_PROJECTOR = "model.mm_projector."
EMBEDDINGS = {
    "model.language_model.embed_tokens.weight": "model.embed_tokens.weight",
    "lm_head.weight": "lm_head.weight",
}


@pytest.fixture(scope="module", params=EXPECTED)
def released(request, reference, tmp_path_factory) -> Path:
    """One tiny checkpoint of each kind; read it, don't write to it."""
    return write_released(reference, request.param, tmp_path_factory.mktemp("released") / request.param)


@pytest.fixture(scope="module")
def converted(released, tmp_path_factory) -> Path:
    return convert(released, tmp_path_factory.mktemp("converted") / released.name)


@pytest.fixture
def source(reference, tmp_path) -> Path:
    """A tiny checkpoint to be spoilt."""
    return write_released(reference, "c_llama", tmp_path / "source")


@pytest.mark.parametrize("name", ["vicuna7b", "qwen2_7b", "vicuna13b"])
def test_real_names_and_shapes_are_all_mapped(reference, name):
    recorded = json.loads((reference / f"keys_{name}.json").read_text())
    is_qwen = "Qwen" in recorded["model_class"]
    values = recorded["language_config"] | {
        "model_type": "llava_qwen" if is_qwen else "llava_llama",
        "feature_scale_mask": recorded["feature_scale_mask"],
        "mm_projector_type": "adapt_spatial_resampler" + ("" if name == "vicuna7b" else "_v2"),
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    }
    text_config = build_text_config(values)
    config = build_config(values, text_config, build_vision_config(values, None), 13)
    plan = plan_weights(recorded["model"], model_shapes(config), config.projector_config)

    taken = {released for rule in plan.rules.values() for released in rule.released}
    assert taken | plan.unused.keys() == recorded["model"].keys()
    assert taken.isdisjoint(plan.unused)
    assert config.projector_config.levels == ([0, 1, 2] if name == "vicuna7b" else [0, 2])


def test_default_configuration_has_the_shapes_of_the_released_vicuna_7b(reference):
    recorded = json.loads((reference / "keys_vicuna7b.json").read_text())
    config = LlavaUhdV2Config()
    shapes = with_rows(model_shapes(config), 32000)
    plan_weights(recorded["model"], shapes, config.projector_config)
    assert recorded["language_config"].items() <= {**config.text_config.to_dict(), "vocab_size": 32000}.items()


def test_rules_read_both_ways(released, converted):
    ours, theirs = read_weights(converted), read_weights(released)
    config = AutoModelForImageTextToText.from_pretrained(converted).config
    for rule in build_rules(ours, config.projector_config):
        for name, tensor in rule.to_released([ours[name] for name in rule.ours]).items():
            assert torch.equal(tensor, theirs[name]), name


def test_weights_are_in_their_places(released, converted):
    ours, theirs = read_weights(converted), read_weights(released)
    attention, width = PROJECTOR + "window_attention.", ours["lm_head.weight"].shape[1]
    query, key, value = theirs[f"{RELEASED_PROJECTOR}attn.in_proj_weight"].split(width)
    assert torch.equal(ours[f"{attention}query.weight"], query)
    assert torch.equal(ours[f"{attention}key.weight"], key)
    assert torch.equal(ours[f"{attention}value.weight"], value)
    assert torch.equal(ours[f"{attention}projection.weight"], theirs[f"{RELEASED_PROJECTOR}proj"].T)
    assert torch.equal(ours[f"{attention}queries"][2], theirs[f"{RELEASED_PROJECTOR}query_3"])
    for index, level in enumerate(EXPECTED[released.name]["levels"]):
        expected = theirs[f"{RELEASED_PROJECTOR}feature_{2**level}x_embedding"].flatten()
        assert torch.equal(ours[f"{attention}level_embeddings"][index], expected)
    fixup = theirs[f"{RELEASED_PROJECTOR}upsampler.upsampler.fixup_proj.1.weight"]
    assert torch.equal(ours[f"{PROJECTOR}upsampler.fixups.2.weight"], fixup.squeeze())
    tower = "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight"
    assert torch.equal(ours["model.visual.vision_tower.pre_layrnorm.weight"], theirs[tower])
    for our_name, name in EMBEDDINGS.items():
        assert torch.equal(ours[our_name], theirs[name])


def test_configuration(released, converted):
    values, expected = json.loads((released / "config.json").read_text()), EXPECTED[released.name]
    config = json.loads((converted / "config.json").read_text())
    assert config["model_type"] == "llava_uhd_v2"
    assert config["architectures"] == ["LlavaUhdV2ForConditionalGeneration"]
    assert config["dtype"] == "bfloat16"
    assert config["token_layout"] == expected["token_layout"]
    assert config["projector_config"]["levels"] == expected["levels"]
    assert config["projector_config"]["num_query_sets"] == 4
    assert (config["row_separator_id"], config["slice_separator_id"]) == (13, 29892)
    assert config["vision_feature_layer"] == -2
    assert config["vision_config"]["hidden_size"] == 64
    text_config = config["text_config"]
    assert text_config["model_type"] == expected["text"]
    assert text_config["rope_parameters"] == {"rope_theta": values["rope_theta"], "rope_type": "default"}
    for key in ("vocab_size", "rms_norm_eps", "num_key_value_heads", "max_position_embeddings", "eos_token_id"):
        assert text_config[key] == values[key], key
    assert not any("mm_" in key for key in text_config)


def test_reloads_through_auto_classes(converted, tmp_path):
    model, report = AutoModelForImageTextToText.from_pretrained(converted, output_loading_info=True)
    assert not any(report.values()), report
    assert model.dtype == torch.bfloat16
    model.save_pretrained(tmp_path)
    ours, again = read_weights(converted), read_weights(tmp_path)
    assert ours.keys() == again.keys()
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_only_text_can_be_generated(converted):
    model_config = json.loads((converted / "config.json").read_text())
    generation_config = GenerationConfig.from_pretrained(converted)
    tokenizer = AutoProcessor.from_pretrained(converted).tokenizer
    ids = set(tokenizer.get_vocab().values()) - {model_config["image_token_id"]}
    assert ids.isdisjoint(generation_config.suppress_tokens)
    assert len(ids) + len(generation_config.suppress_tokens) == model_config["text_config"]["vocab_size"]
    assert generation_config.eos_token_id == 2
    assert generation_config.pad_token_id is not None


def test_processor_is_complete(released, converted):
    processor = AutoProcessor.from_pretrained(converted)
    config = json.loads((converted / "config.json").read_text())
    tokenizer, expected = processor.tokenizer, EXPECTED[released.name]
    assert processor.image_suffix == expected["image_suffix"]
    assert processor.token_layout == expected["token_layout"]
    assert processor.query_grid == [12, 12]
    assert processor.image_token_id == config["image_token_id"]
    assert processor.image_processor.max_slices == 9
    assert processor.image_processor.slice_resolution == 336
    assert tokenizer.padding_side == "left"
    assert tokenizer.decode([config["image_token_id"]], skip_special_tokens=True) == ""
    prompt = processor.apply_chat_template([{"role": "user", "content": "<image>\nHi"}], add_generation_prompt=True)
    assert prompt.endswith("<|im_start|>assistant\n" if expected["text"] == "qwen2" else " ASSISTANT:")
    assert tokenizer.chat_template == processor.chat_template


def test_bin_shards_give_the_same(released, converted, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(released, source, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = sorted(read_weights(released).items())
    shards = {"pytorch_model-00001-of-00002.bin": weights[::2], "pytorch_model-00002-of-00002.bin": weights[1::2]}
    for name, part in shards.items():
        torch.save({key: tensor.clone() for key, tensor in part}, source / name)
    weight_map = {key: name for name, part in shards.items() for key, _ in part}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with_index = convert(source, tmp_path / "with_index")
    (source / "pytorch_model.bin.index.json").unlink()
    without_index = convert(source, tmp_path / "without_index")
    for path in converted.iterdir():
        if path.name == "conversion.json":
            continue
        assert path.read_bytes() == (with_index / path.name).read_bytes(), path.name
        assert path.read_bytes() == (without_index / path.name).read_bytes(), path.name


def test_new_rows_are_the_mean_or_zero_and_the_others_untouched(source, tmp_path):
    output = convert(source, tmp_path / "output", skip_tokenizer=True)
    config = json.loads((output / "config.json").read_text())
    assert config["image_token_id"] == 32000
    assert config["text_config"]["vocab_size"] == 32001
    assert GenerationConfig.from_pretrained(output).suppress_tokens == [32000]
    ours, theirs = read_weights(output), read_weights(source)
    for our_name, name in EMBEDDINGS.items():
        assert torch.equal(ours[our_name][:32000], theirs[name])
        assert ours[our_name].shape[0] == 32001
    embeddings, head = (ours[name] for name in EMBEDDINGS)
    torch.testing.assert_close(embeddings[32000].float(), embeddings[:32000].float().mean(0), rtol=2**-8, atol=0)
    assert not (embeddings[:32000] == embeddings[32000]).all(-1).any()  # it can be told from every other row
    assert not head[32000].any()
    files = {path.name for path in output.iterdir()}
    assert files == {
        "config.json",
        "conversion.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }


def test_rows_without_token_can_not_be_generated(source, tmp_path):
    weights = read_weights(source)
    vocabulary = [f"<{index}>" for index in range(32000 - 519)]  # one more than the embeddings have rows for
    tokenizer = AutoTokenizer.from_pretrained(source, config=LlamaConfig())
    tokenizer.add_tokens(vocabulary)
    tokenizer.save_pretrained(source)
    output = convert(source, tmp_path / "output")
    assert json.loads((output / "config.json").read_text())["image_token_id"] == 32001
    assert GenerationConfig.from_pretrained(output).suppress_tokens == [32000, 32001]
    embeddings = read_weights(output)["lm_head.weight"]
    assert torch.equal(embeddings[:32000], weights["lm_head.weight"])
    assert embeddings.shape[0] == 32002 and not embeddings[32000:].any()


def test_dtype(source, tmp_path):
    output = convert(source, tmp_path / "output", dtype="float32", skip_tokenizer=True)
    weights = read_weights(output)
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    name = "model.norm.weight"
    expected = read_weights(source)[name].float()
    assert torch.equal(weights["model.language_model.norm.weight"], expected)
    assert json.loads((output / "config.json").read_text())["dtype"] == "float32"


def test_shards_with_index(source, tmp_path, monkeypatch):
    whole = read_weights(convert(source, tmp_path / "whole", skip_tokenizer=True))
    monkeypatch.setattr(weight_files, "MAX_SHARD_SIZE", 4 * 10**6)
    output = convert(source, tmp_path / "shards", skip_tokenizer=True)
    index = json.loads((output / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == len(list(output.glob("*.safetensors"))) == 3
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    model, report = AutoModelForImageTextToText.from_pretrained(output, output_loading_info=True)
    assert not any(report.values()), report
    assert all(torch.equal(tensor, whole[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("has_head", [False, True])
def test_tied_embeddings(source, tmp_path, has_head):
    edit_json(source / "config.json", tie_word_embeddings=True)
    assert_refused(source, "`lm_head.weight` differs from `model.embed_tokens.weight`", "tie_word_embeddings")
    weights = read_weights(source)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    if not has_head:
        del weights["lm_head.weight"]
    save_file(weights, source / "model.safetensors")
    output = convert(source, tmp_path / "output", skip_tokenizer=True)
    assert "lm_head.weight" not in read_weights(output)
    model, report = AutoModelForImageTextToText.from_pretrained(output, output_loading_info=True)
    assert not any(report.values()), report
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight[:32000], weights["model.embed_tokens.weight"])


def test_sampling_values_without_sampling_are_dropped(source, tmp_path):
    edit_json(source / "generation_config.json", temperature=0.9, top_p=0.6, suppress_tokens=[7])
    generation_config = GenerationConfig.from_pretrained(convert(source, tmp_path / "output", skip_tokenizer=True))
    assert generation_config.temperature is None and generation_config.top_p is None
    assert generation_config.suppress_tokens == [7, 32000]
    edit_json(source / "generation_config.json", do_sample=True)
    generation_config = GenerationConfig.from_pretrained(convert(source, tmp_path / "sampling", skip_tokenizer=True))
    assert (generation_config.do_sample, generation_config.temperature, generation_config.top_p) == (True, 0.9, 0.6)


def assert_refused(source: Path, *messages: str, **kwargs) -> None:
    """Converting raises a ValueError with all these parts, and leaves nothing behind."""
    before = sorted(source.parent.iterdir())
    with pytest.raises(ValueError) as error:
        convert(source, source.parent / "output", **kwargs)
    for message in messages:
        assert message in str(error.value)
    assert sorted(source.parent.iterdir()) == before


@pytest.mark.parametrize(
    "key, value",
    [
        ("model_type", "llava_mistral"),
        ("mm_projector_type", "mlp2x_gelu"),
        ("model_mode", "llava"),
        ("feature_mode", "featup_muti_res"),
        ("feature_scale_mask", 16),
        ("mm_hidden_size", 1024),
        ("mm_patch_merge_type", "spatial_unpad"),
        ("mm_use_im_start_end", True),
        ("mm_vision_select_feature", "cls_patch"),
        ("mm_vision_select_layer", None),
        ("quantization_config", {"bits": 4}),
        ("rms_norm_eps", None),
    ],
)
def test_refuses_values_that_change_the_numbers(source, key, value):
    edit_json(source / "config.json", **{key: value})
    assert_refused(source, f"`{key}`", "" if value is None else repr(value))


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": 10**9},
        {"hidden_size": 2**16},  # within the limits, but not what the weights have
        {"vocab_size": 2**22},
        {"num_hidden_layers": 2**10},
        {"num_hidden_layers": 10**9},
        {"num_attention_heads": 0},
        {"num_key_value_heads": -1},
        {"intermediate_size": 1.5},
        {"hidden_size": [128, "128"]},
        {"rms_norm_eps": "1e-5"},
        {"rope_theta": -1},
        {"model_type": ["llava_llama"]},
        {"mm_vision_tower": {"name": "clip"}},
        {"hidden_size": {}},
    ],
    ids=str,
)
def test_values_are_checked_before_anything_is_built_from_them(source, values, monkeypatch):
    def build(*_):
        raise AssertionError("a model is built")

    monkeypatch.setattr("llava_uhd_v2_hf.conversion.convert.model_shapes", build)
    edit_json(source / "config.json", **values)
    [(key, value)] = values.items()
    assert_refused(source, f"Expected `{key}` in {source / 'config.json'}", f"got {value!r}")


@pytest.mark.parametrize("values", [{"num_attention_heads": 0}, {"image_size": 10**9}, {"hidden_act": 5}], ids=str)
def test_values_of_the_tower_are_checked(source, values):
    edit_json(source / "vision_tower_config.json", **values)
    assert_refused(source, f"Expected `{next(iter(values))}` in {source / 'vision_tower_config.json'}")


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"rope_theta": NaN}', "NaN is not a JSON number"),
        ('{"rope_theta": 1e999}', "1e999 is not a JSON number"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ("[]", "must hold a JSON object, but holds a list"),
    ],
    ids=["nan", "infinite", "deep", "list"],
)
def test_damaged_json_is_named(source, text, message):
    (source / "config.json").write_text(text)
    assert_refused(source, str(source / "config.json"), message)


def spoil_before(step, monkeypatch, spoil):
    """Spoils a file just before a step of the conversion."""
    function = getattr(convert_module, step)

    def spoiling(*args, **kwargs):
        spoil()
        return function(*args, **kwargs)

    monkeypatch.setattr(convert_module, step, spoiling)


@pytest.mark.parametrize("step", ["write_shards", "write_record"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("how", ["truncated", "overwritten", "replaced", "removed"])
def test_a_source_that_changes_meanwhile_is_noticed(source, monkeypatch, step, suffix, how):
    path = source / "model.safetensors"
    if suffix == "bin":
        torch.save(read_weights(source), source / "pytorch_model.bin")
        path.unlink()
        path = source / "pytorch_model.bin"

    def spoil():
        if how == "truncated":
            os.truncate(path, 5000)
        elif how == "overwritten":
            with open(path, "rb+") as file:
                file.seek(-1000, os.SEEK_END)
                file.write(bytes(1000))
        elif how == "replaced":
            shutil.copyfile(path, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)
        else:
            path.unlink()

    spoil_before(step, monkeypatch, spoil)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        convert(source, source.parent / "output")
    assert str(path) in str(error.value)
    assert sorted(source.parent.iterdir()) == [source]


def test_a_tokenizer_that_changes_meanwhile_is_noticed(source, monkeypatch):
    path = source / "tokenizer_config.json"
    spoil_before("write_shards", monkeypatch, lambda: path.write_text(path.read_text() + "\n"))
    assert_refused(source, str(path), "changed while it was read")


def test_integers_as_names_of_tensors_are_refused(source):
    torch.save({0: torch.zeros(2)}, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    assert_refused(source, "nothing but tensors by name, but has also: 0")


def test_no_file_is_copied_through_a_link(source, tmp_path):
    shutil.move(source / "tokenizer.model", tmp_path / "secret.model")
    (source / "tokenizer.model").symlink_to(tmp_path / "secret.model")
    assert_refused(source, "tokenizer.model is a link to", "secret.model")


def test_refuses_levels_that_are_not_supported(source):
    edit_json(source / "config.json", feature_scale_mask=6)
    assert_refused(source, "`levels`=[1, 2]")


def test_refuses_an_unknown_tower(source):
    edit_json(source / "config.json", mm_vision_tower="google/siglip-so400m-patch14-384")
    assert_refused(source, "google/siglip-so400m-patch14-384", "--vision-config", vision_config=None)


def test_lists_all_weights_that_do_not_fit(source):
    weights = read_weights(source)
    del weights["model.norm.weight"], weights["model.mm_projector.query_2"]
    weights["model.mm_projector.extra"] = torch.zeros(3)
    weights["model.mm_projector.ln_q.bias"] = torch.zeros(7)
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:31999].clone()
    save_file(weights, source / "model.safetensors")
    assert_refused(
        source,
        "missing: `model.norm.weight` [128]",
        "missing: `model.mm_projector.query_2` [144, 128]",
        "unknown: `model.mm_projector.extra` [3]",
        "wrong shape: `model.mm_projector.ln_q.bias` is [7], must be [128]",
        "wrong shape: `model.embed_tokens.weight` is [31999, 128], must be [32000, 128]",
        "5 problem(s)",
    )


def test_refuses_values_that_are_not_finite(source):
    weights = read_weights(source)
    weights["model.norm.weight"][3] = float("nan")
    weights["model.mm_projector.query_2"][3, 4] = float("-inf")
    weights["model.mm_projector.ln_q.bias"][0] = 1e6  # beyond float16
    save_file(weights, source / "model.safetensors")
    assert_refused(source, "`model.norm.weight`", "`model.mm_projector.query_2`")
    assert_refused(source, "`model.norm.weight`", "`model.mm_projector.ln_q.bias`", "float16", dtype="float16")


def test_mixed_dtypes_need_a_choice(source, tmp_path):
    weights = read_weights(source)
    weights["model.mm_projector.pos_embed"] = weights["model.mm_projector.pos_embed"].float()
    save_file(weights, source / "model.safetensors")
    assert_refused(source, "1 of float32 (such as `model.mm_projector.pos_embed`)", "bfloat16", "--dtype")
    convert(source, tmp_path / "output", dtype="bfloat16")


def test_refuses_incomplete_folders(source):
    index = source / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}))
    assert_refused(source, "model-00002-of-00002.safetensors")
    index.unlink()
    shutil.copyfile(source / "model.safetensors", source / "model-2.safetensors")
    assert_refused(source, "in two files")
    for path in source.glob("*.safetensors"):
        path.unlink()
    assert_refused(source, "no weights")
    (source / "tokenizer.model").unlink()
    assert_refused(source, "no tokenizer", "--skip-tokenizer")
    (source / "config.json").unlink()
    assert_refused(source, "config.json")


def test_wrong_values_are_one_message(source, tmp_path):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "hidden_size": str(config["hidden_size"])}))
    result = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "output")])
    assert result.exit_code == 1 and result.stderr.startswith("Error: ") and "hidden_size" in result.stderr
    assert not (tmp_path / "output").exists()


def test_a_mount_point_is_refused_before_anything_is_read(source, tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    with pytest.raises(ValueError, match="disk is a mount point.* write to a new folder in it"):
        convert(source, tmp_path / "disk")


def test_leaves_a_used_folder_alone(source, tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    (output / "note.txt").write_text("mine")
    (source / "config.json").unlink()  # not read
    with pytest.raises(ValueError, match="not an empty folder"):
        convert(source, output)
    assert [path.name for path in output.iterdir()] == ["note.txt"]


def test_command(source, tmp_path):
    (tmp_path / "output").mkdir()
    command = ["convert", str(source), str(tmp_path / "output"), "--skip-tokenizer", "--dtype", "float16"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "`mm_hidden_size`=64" in result.output
    result = CliRunner().invoke(app, [*command, "--vision-config", str(source / "vision_tower_config.json")])
    assert result.exit_code == 0, result.output
    assert "sequential" in result.output and "float16" in result.output
    assert (tmp_path / "output/config.json").is_file()
