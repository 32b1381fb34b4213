# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints put together from a vision tower, a language model and the authors' pre-trained parts."""

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    Dinov2Config,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from typer.testing import CliRunner

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.conversion.assemble import AssemblyOptions, assemble, released_projector_rules, vdim_rules
from llava_uhd_v2_hf.conversion.weight_map import model_shapes
from tests.support.checkpoints import edit_json, read_weights, write_released
from tests.support.language_model_templates import toy_tokenizer
from tests.support.paths import GOLDEN


TOWER = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 600,
    "max_position_embeddings": 2048,
}
OPTIONS = {"row_separator_id": 13, "slice_separator_id": 44}
PROJECTOR = "model.visual.projector."


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A whole CLIP, text part included."""
    folder = tmp_path_factory.mktemp("clip")
    text = TOWER | {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2}
    CLIPModel(CLIPConfig(vision_config=TOWER, text_config=text)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]})
    )
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(LlamaConfig(**TEXT)).to(torch.bfloat16).save_pretrained(folder)
    shutil.copytree(GOLDEN / "tokenizers/sentencepiece_llama_like", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def assembled(clip, llama, tmp_path_factory):
    output = tmp_path_factory.mktemp("assembled") / "model"
    assemble(clip, llama, output, AssemblyOptions(**OPTIONS))
    return output


@pytest.fixture(scope="module")
def vdim_file(assembled, tmp_path_factory):
    """A pre-training file with the recorded names, of the tiny tower's width."""
    names = json.loads((GOLDEN / "keys_vicuna7b.json").read_text())["vdim_ckpt_state_dict"]
    state = {}
    for name, shape in names.items():
        if not name.startswith(("model.", "validation_model.")) or "pre_layrnorm" in name:
            state[name] = torch.randn([64 if side == 1024 else side for side in shape])
    path = tmp_path_factory.mktemp("vdim") / "clip-large-vdim.ckpt"
    torch.save({"state_dict": state, "epoch": 1, "pytorch-lightning_version": "2.0", "loops": {"a": [1, None]}}, path)
    return path


def test_parts_are_where_they_belong(assembled, clip, llama):
    model, report = AutoModelForImageTextToText.from_pretrained(assembled, dtype="auto", output_loading_info=True)
    assert not any(report.values()), report
    assert model.dtype == torch.bfloat16
    ours = model.state_dict()
    tower, text = read_weights(clip), read_weights(llama)
    for name in ("embeddings.class_embedding", "encoder.layers.1.mlp.fc2.bias"):
        assert torch.equal(ours[f"model.visual.vision_tower.{name}"], tower[f"vision_model.{name}"].bfloat16())
    for name in ("embed_tokens.weight", "layers.0.self_attn.q_proj.weight", "norm.weight"):
        assert torch.equal(ours[f"model.language_model.{name}"], text[f"model.{name}"])
    assert torch.equal(ours["lm_head.weight"], text["lm_head.weight"])
    record = json.loads((assembled / "conversion.json").read_text())
    assert {"vision_tower/model.safetensors", "text_model/tokenizer.model"} <= record["sources"].keys()
    assert all(name.startswith(PROJECTOR) for name in record["initialised"])


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("tower", {"hidden_size": 2**16}),
        ("tower", {"intermediate_size": 2**20}),
        ("tower", {"num_hidden_layers": 2**10}),
        ("text", {"hidden_size": 2**16}),
        ("text", {"vocab_size": 2**22}),
        ("text", {"num_hidden_layers": 2**10}),
        ("text", {"hidden_size": None}),  # 4096 by default
    ],
    ids=str,
)
def test_sizes_are_compared_with_weights_before_a_model_is_built(part, values, clip, llama, tmp_path, monkeypatch):
    def build(*_):
        raise AssertionError("a model is built")

    monkeypatch.setattr("llava_uhd_v2_hf.conversion.assemble.model_shapes", build)
    folder = shutil.copytree({"tower": clip, "text": llama}[part], tmp_path / part)
    config = json.loads((folder / "config.json").read_text())
    changed = config["vision_config"] if part == "tower" else config
    changed.update(values)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    [name] = values
    with pytest.raises(ValueError, match=f"Expected `{name}` in {folder / 'config.json'}"):
        assemble(
            *((folder, llama) if part == "tower" else (clip, folder)), tmp_path / "output", AssemblyOptions(**OPTIONS)
        )
    assert not (tmp_path / "output").exists()


def test_a_tower_larger_than_its_weights_is_refused(clip, llama, tmp_path):
    folder = shutil.copytree(clip, tmp_path / "tower")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= {"image_size": 2**13, "patch_size": 1}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json describes a model of .* numbers, but its weights have"):
        assemble(folder, llama, tmp_path / "output", AssemblyOptions(**OPTIONS))


def test_new_weights_are_the_models_own(assembled):
    ours, config = read_weights(assembled), LlavaUhdV2Config.from_pretrained(assembled)
    torch.manual_seed(0)
    fresh = AutoModelForImageTextToText.from_config(config).state_dict()
    for name, tensor in ours.items():
        if not name.startswith(PROJECTOR):
            continue
        expected, spread = fresh[name].float(), fresh[name].float().std(correction=0).item()
        if spread < 1e-6 or name.endswith("position_embeddings"):  # constants and the table
            assert torch.equal(tensor, expected.to(tensor.dtype)), name
        elif tensor.numel() > 100:
            assert tensor.float().std() == pytest.approx(spread, rel=0.3), name


def test_the_seed_decides_the_new_weights(clip, llama, assembled, tmp_path):
    assemble(clip, llama, tmp_path / "same", AssemblyOptions(**OPTIONS))
    assemble(clip, llama, tmp_path / "other", AssemblyOptions(seed=1, **OPTIONS))
    first = (assembled / "model.safetensors").read_bytes()
    assert first == (tmp_path / "same/model.safetensors").read_bytes()
    assert first != (tmp_path / "other/model.safetensors").read_bytes()


def test_processor_and_configuration(assembled):
    processor, config = AutoProcessor.from_pretrained(assembled), LlavaUhdV2Config.from_pretrained(assembled)
    assert processor.image_token_id == config.image_token_id
    assert list(processor.image_processor.image_mean) == [0.1, 0.2, 0.3]
    assert processor.image_processor.slice_resolution == 56
    assert processor.tokenizer.padding_side == "left"
    chat = [{"role": "user", "content": "<image>\nHi"}]
    assert processor.apply_chat_template(chat, add_generation_prompt=True).endswith(" ASSISTANT:")
    assert (config.row_separator_id, config.slice_separator_id) == (13, 44)
    assert config.projector_config.levels == [0, 1, 2]


def test_vdim_file_fills_the_upsampler(clip, llama, assembled, vdim_file, tmp_path):
    assemble(clip, llama, tmp_path / "model", AssemblyOptions(vdim=vdim_file, dtype="float32", **OPTIONS))
    ours, state = read_weights(tmp_path / "model"), torch.load(vdim_file)["state_dict"]
    upsampler = PROJECTOR + "upsampler."
    assert torch.equal(ours[upsampler + "stages.1.range_temperature"], state["upsampler.up2.range_temp"].reshape(1))
    assert torch.equal(ours[upsampler + "fixups.2.weight"], state["upsampler.fixup_proj.1.weight"][:, :, 0, 0])
    record = json.loads((tmp_path / "model/conversion.json").read_text())
    assert not any(name.startswith(upsampler) for name in record["initialised"])
    assert "vdim/clip-large-vdim.ckpt" in record["sources"]


def test_vdim_names_are_the_recorded_ones(reference):
    recorded = json.loads((reference / "keys_vicuna7b.json").read_text())
    config = LlavaUhdV2Config()
    rules = vdim_rules(recorded["vdim_ckpt_state_dict"], model_shapes(config), config)
    assert {name for rule in rules for name in rule.released} == recorded["vdim_loaded_into_model"].keys()


@pytest.mark.parametrize("name", ["vicuna7b", "qwen2_7b", "vicuna13b"])
def test_projector_names_are_the_recorded_ones(reference, name):
    recorded = json.loads((reference / f"keys_{name}.json").read_text())
    width, heads = recorded["language_config"]["hidden_size"], recorded["language_config"]["num_attention_heads"]
    text_config = {"model_type": "llama", "hidden_size": width, "num_attention_heads": heads, "vocab_size": 30000}
    config = LlavaUhdV2Config(text_config=text_config, image_token_id=5)
    rules = released_projector_rules(recorded["mm_projector_bin"], model_shapes(config), config)
    ours = {name for rule in rules for name in rule.ours}
    assert ours == {name for name in model_shapes(config) if name.startswith(PROJECTOR)}


def test_projector_after_stage_1_wins_over_vdim(clip, reference, vdim_file, tmp_path):
    source = write_released(reference, "c_llama", tmp_path / "source")
    projector = {name: x for name, x in read_weights(source).items() if name.startswith("model.mm_projector.")}
    torch.save(projector, tmp_path / "mm_projector.bin")
    text = tmp_path / "text"
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(text)
    shutil.copytree(GOLDEN / "tokenizers/sentencepiece_llama_like", text, dirs_exist_ok=True)
    options = AssemblyOptions(vdim=vdim_file, projector=tmp_path / "mm_projector.bin", **OPTIONS)
    assemble(clip, text, tmp_path / "model", options)
    ours = read_weights(tmp_path / "model")
    queries = torch.stack([projector[f"model.mm_projector.query_{index}"] for index in range(1, 5)]).float()
    assert torch.equal(ours[PROJECTOR + "window_attention.queries"], queries)
    temperature = projector["model.mm_projector.upsampler.upsampler.up1.range_temp"].float().reshape(1)
    assert torch.equal(ours[PROJECTOR + "upsampler.stages.0.range_temperature"], temperature)


def test_other_towers_and_tied_language_models(llama, tmp_path):
    CLIPVisionModel(CLIPConfig(vision_config=TOWER).vision_config).save_pretrained(tmp_path / "vision_only")
    text = tmp_path / "qwen"
    Qwen2ForCausalLM(Qwen2Config(**TEXT, tie_word_embeddings=True)).save_pretrained(text)
    shutil.copytree(GOLDEN / "tokenizers/byte_level_qwen_like", text, dirs_exist_ok=True)
    options = AssemblyOptions(levels=(0, 2), token_layout="sequential", **OPTIONS)
    assemble(tmp_path / "vision_only", text, tmp_path / "tied", options)
    model, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "tied", output_loading_info=True)
    assert not any(report.values()), report
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.token_layout == "sequential"
    assert AutoProcessor.from_pretrained(tmp_path / "tied").image_suffix == ""

    dino = {key: value for key, value in TOWER.items() if key != "intermediate_size"}
    AutoModel.from_config(Dinov2Config(**dino)).save_pretrained(tmp_path / "dino")
    assemble(tmp_path / "dino", llama, tmp_path / "dino_llama", AssemblyOptions(**OPTIONS))
    _, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "dino_llama", output_loading_info=True)
    assert not any(report.values()), report


def refused(*arguments, match, **options):
    *_, output = arguments
    with pytest.raises(ValueError, match=match):
        assemble(*arguments, AssemblyOptions(**OPTIONS | options))
    assert not output.exists()


def test_bad_parts_are_refused(clip, llama, vdim_file, tmp_path):
    output = tmp_path / "output"
    refused(clip, llama, output, vdim=vdim_file, levels=(0, 1), match="unknown: `upsampler.up2")
    torch.save({"epoch": 1}, tmp_path / "no_state.ckpt")
    refused(clip, llama, output, vdim=tmp_path / "no_state.ckpt", match="no `state_dict`")
    torch.save({"model.mm_projector.ln_q.bias": torch.zeros(5)}, tmp_path / "part.bin")
    refused(clip, llama, output, projector=tmp_path / "part.bin", match="missing: `model.mm_projector.pos_embed`")
    refused(clip, llama, output, slice_separator_id=29892, match="`slice_separator_id`=29892 is outside")
    refused(llama, llama, output, match="is not supported. Choose one of clip_vision_model")
    shutil.copytree(llama, tmp_path / "text")
    weights = read_weights(llama)
    save_file({**weights, "model.extra": torch.zeros(1)}, tmp_path / "text/model.safetensors")
    refused(clip, tmp_path / "text", output, match="unknown: `model.extra`")
    edit_json(tmp_path / "text/config.json", vocab_size=590)
    refused(
        clip, tmp_path / "text", output, match=r"`model.embed_tokens.weight` is \[600, 128\], must be \[590, 128\]"
    )


@pytest.fixture(scope="module")
def phi(tmp_path_factory):
    """A language model with a chat template of its own, whose end token its config does not name."""
    folder = tmp_path_factory.mktemp("phi")
    model = LlamaForCausalLM(LlamaConfig(**TEXT))
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2)
    model.save_pretrained(folder)
    toy_tokenizer("phi-3").save_pretrained(folder)
    return folder


def test_template_separators_and_end_tokens_are_the_language_models(clip, phi, tmp_path, capsys):
    assemble(clip, phi, tmp_path / "model", AssemblyOptions())
    processor, config = (
        AutoProcessor.from_pretrained(tmp_path / "model"),
        LlavaUhdV2Config.from_pretrained(tmp_path / "model"),
    )
    names = processor.tokenizer.convert_ids_to_tokens([config.row_separator_id, config.slice_separator_id])
    assert names == ["<0x0A>", ","]
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert prompt == "<|user|>\n<image>\nHi<|end|>\n<|assistant|>\n"
    ends = GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id
    assert ends == [2, processor.tokenizer.convert_tokens_to_ids("<|end|>")]
    assert json.loads((tmp_path / "model/conversion.json").read_text())["options"]["chat_template"] == "own"
    assert "Chat template: own.\nRows end with '\\n' (14), slices with ','" in capsys.readouterr().out


def test_chat_templates_are_chosen_and_said(clip, phi, llama, tmp_path):
    (tmp_path / "plain.jinja").write_text("{{ messages[0].content }}")
    runs = {
        "vicuna": ([str(phi), "--chat-template", "vicuna"], 0, "Chat template: vicuna.\n"),
        "none": ([str(llama)], 0, "vicuna. The language model's tokenizer has no chat template.\n"),
        "own": ([str(llama), "--chat-template", "own"], 1, "has no chat template. Choose another with"),
        "file": ([str(phi), "--chat-template", str(tmp_path / "plain.jinja")], 1, "plain.jinja can't be used"),
        "missing": ([str(phi), "--chat-template", "vicunna"], 1, "There is no chat template vicunna"),
    }
    for name, (arguments, code, said) in runs.items():
        command = ["assemble", str(clip), arguments[0], str(tmp_path / name), *arguments[1:]]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == code and said in " ".join(result.output.split(" ")), result.output
        assert "Traceback" not in result.output
        assert (tmp_path / name).exists() == (code == 0)


def test_gguf_files_need_gguf_and_a_folder_has_one(clip, tmp_path, monkeypatch):
    (tmp_path / "a.gguf").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for text in (tmp_path, tmp_path / "a.gguf"):
        result = CliRunner().invoke(app, ["assemble", str(clip), str(text), str(tmp_path / "model")])
        assert result.exit_code == 1 and "gguf is not installed; this needs: pip install '.[gguf]'" in result.output
    (tmp_path / "b.gguf").touch()
    with pytest.raises(ValueError, match="has several GGUF files, a.gguf, b.gguf; give the path of one of them"):
        assemble(clip, tmp_path, tmp_path / "model", AssemblyOptions())


def test_with_the_authors_projector_the_separators_are_the_released_ones(llama, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(llama)
    values = AssemblyOptions(projector=tmp_path / "mm_projector.bin").layout_values(tokenizer)
    assert (values["row_separator_id"], values["slice_separator_id"]) == (13, 29892)
    values = AssemblyOptions(row_separator_id=7).layout_values(tokenizer)
    assert (values["row_separator_id"], values["slice_separator_id"]) == (7, tokenizer.convert_tokens_to_ids(","))


def test_command(clip, llama, tmp_path):
    command = ["assemble", str(clip), str(llama), str(tmp_path / "output"), "--slice-separator-id", "44"]
    result = CliRunner().invoke(app, [*command, "--levels", "two"])
    assert result.exit_code == 1 and "--levels" in result.output
    result = CliRunner().invoke(app, [*command, "--levels", "0,2"])
    assert result.exit_code == 0, result.output
    assert "tensors: initialised" in result.output
    assert json.loads((tmp_path / "output/config.json").read_text())["projector_config"]["levels"] == [0, 2]
