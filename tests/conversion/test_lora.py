# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""LoRA folders of the authors' code become PEFT adapters: merging in PEFT equals merging by hand."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.conversion.lora import convert_lora
from llava_uhd_v2_hf.conversion.weight_map import build_rules
from llava_uhd_v2_hf.training.adapters import merge_adapter
from tests.support.checkpoints import edit_json, read_weights


RANK, ALPHA = 4, 8
PREFIX = "base_model.model."
ADAPTED = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
PROJECTOR = "model.mm_projector."
UPSAMPLER = PROJECTOR + "upsampler.upsampler.up"


def draw(shape, seed, scale=0.05):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def low_rank(weights):
    """Low-rank tensors for linear layers of the language model, named as the authors' code saves them."""
    tensors = {}
    for layer in (0, 1):
        for module in ADAPTED:
            outputs, inputs = weights[f"model.layers.{layer}.{module}.weight"].shape
            name = f"{PREFIX}model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = draw((RANK, inputs), layer)
            tensors[f"{name}.lora_B.weight"] = draw((outputs, RANK), layer + 10)
    return tensors


@pytest.fixture
def released(authors_checkpoint):
    return read_weights(authors_checkpoint)


@pytest.fixture
def source(released, tmp_path):
    """Low-rank tensors, and a projector trained in full."""
    folder = tmp_path / "lora"
    folder.mkdir()
    torch.save(low_rank(released), folder / "adapter_model.bin")
    config = {
        "base_model_name_or_path": "lmsys/vicuna-7b-v1.5",
        "bias": "none",
        "lora_alpha": ALPHA,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": RANK,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_full_parts(folder, released, PROJECTOR)
    return folder


def write_full_parts(folder, released, *prefixes, without="-"):
    """non_lora_trainables.bin with every number of these parts changed."""
    full = {
        f"{PREFIX}{name}": tensor + draw(tensor.shape, 1, 0.01).to(tensor)
        for name, tensor in released.items()
        if name.startswith(prefixes) and not name.startswith(without)
    }
    torch.save(full, folder / "non_lora_trainables.bin")


def merged_by_hand(source, base, released):
    """The converted base with everything of the authors' folder put into it."""
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval()
    state = model.state_dict()
    tensors = torch.load(source / "adapter_model.bin")
    for name, down in tensors.items():
        if name.endswith("lora_A.weight"):
            up = tensors[name.replace("lora_A", "lora_B")]
            ours = name.removeprefix(f"{PREFIX}model.").removesuffix(".lora_A.weight")
            state[f"model.language_model.{ours}.weight"] += ALPHA / RANK * up @ down
    if (source / "non_lora_trainables.bin").is_file():
        full = {
            name.removeprefix(PREFIX): tensor.float()
            for name, tensor in torch.load(source / "non_lora_trainables.bin").items()
        }
        for rule in build_rules(state, model.config.projector_config):
            if set(rule.released) <= full.keys():
                for name, tensor in rule.to_ours([full[released] for released in rule.released]).items():
                    state[name][: len(tensor)] = tensor
    model.load_state_dict(state)
    return model


def assert_equal_when_merged(source, base, adapter, released):
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with_adapter = PeftModel.from_pretrained(model, adapter)
    ids = torch.tensor([[1, 5, 7, 300, 9, 12]])
    inputs = {"input_ids": torch.cat([ids, torch.full((1, 144), model.config.image_token_id)], 1)}
    inputs["pixel_values"] = draw((1, 576, 588), 3, 1)
    inputs["image_sizes"] = torch.tensor([[0, 0, 0, 0, 336, 336]])
    expected = merged_by_hand(source, base, released)
    with torch.no_grad():
        answer = expected(**inputs).logits
        torch.testing.assert_close(with_adapter.eval()(**inputs).logits, answer, rtol=1e-4, atol=1e-4)
    merged = with_adapter.merge_and_unload().state_dict()
    changed = 0
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
        changed += not torch.equal(tensor, before[name])
    return changed


def test_merging_in_peft_equals_merging_by_hand(source, converted_checkpoint, released, tmp_path):
    convert_lora(source, converted_checkpoint, tmp_path / "adapter")
    assert assert_equal_when_merged(source, converted_checkpoint, tmp_path / "adapter", released) == 6 + 48
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["modules_to_save"] == ["model.visual.projector"]
    assert "model.language_model.layers.1.mlp.down_proj" in config["target_modules"]
    assert len(config["target_modules"]) == 6
    assert config["base_model_name_or_path"] == str(converted_checkpoint)
    assert config["task_type"] == "CAUSAL_LM"
    processor = {"processor_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"}
    processor |= {"chat_template.jinja"}
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "conversion.json", *processor}
    merge_adapter(str(tmp_path / "adapter"), tmp_path / "merged")
    assert (tmp_path / "merged/tokenizer.json").is_file()


def test_parts_of_the_projector_the_tower_and_embeddings(source, converted_checkpoint, released, tmp_path):
    parts = (PROJECTOR, "model.vision_tower.", "model.embed_tokens.", "lm_head.")
    write_full_parts(source, released, *parts, without=UPSAMPLER)
    convert_lora(source, converted_checkpoint, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["modules_to_save"] == [
        "model.visual.vision_tower",
        "model.visual.projector.upsampler.fixups.2",
        "model.visual.projector.window_attention",
        "model.language_model.embed_tokens",
        "lm_head",
    ]
    assert_equal_when_merged(source, converted_checkpoint, tmp_path / "adapter", released)


def test_low_rank_tensors_alone_in_safetensors(source, converted_checkpoint, released, tmp_path):
    save_file(torch.load(source / "adapter_model.bin"), source / "adapter_model.safetensors")
    (source / "non_lora_trainables.bin").unlink()
    convert_lora(source, converted_checkpoint, tmp_path / "adapter")
    assert assert_equal_when_merged(source, converted_checkpoint, tmp_path / "adapter", released) == 6
    ours = read_weights(tmp_path / "adapter")
    assert all(".lora_" in name and "language_model" in name and "vision" not in name for name in ours)


def refused(source, base, *messages):
    with pytest.raises(ValueError) as error:
        convert_lora(source, base, source.parent / "adapter")
    for message in messages:
        assert message in str(error.value)
    assert not (source.parent / "adapter").exists()


def test_bad_folders_are_refused(source, converted_checkpoint, released):
    write_full_parts(source, released, f"{PROJECTOR}query_1")
    refused(source, converted_checkpoint, "missing: `model.mm_projector.query_2`")
    write_full_parts(source, released, f"{PROJECTOR}query_")
    refused(source, converted_checkpoint, "PEFT saves whole modules", "window_attention.queries")
    (source / "non_lora_trainables.bin").unlink()
    tensors = low_rank(released)
    torch.save(
        tensors
        | {
            f"{PREFIX}{PROJECTOR}attn.out_proj.lora_A.weight": torch.zeros(4, 128),
            f"{PREFIX}model.layers.0.mlp.up_proj.lora_A.weight": torch.zeros(4, 99),
        },
        source / "adapter_model.bin",
    )
    refused(
        source,
        converted_checkpoint,
        "unknown: `base_model.model.model.mm_projector.attn.out_proj.lora_A.weight`",
        "`model.language_model.layers.0.mlp.up_proj` has 128 channels",
    )
    edit_json(source / "adapter_config.json", bias="all")
    refused(source, converted_checkpoint, "`bias`='all'")
    (source / "adapter_config.json").unlink()
    refused(source, converted_checkpoint, "adapter_config.json")


def test_command(source, converted_checkpoint, tmp_path):
    command = ["convert-lora", str(source)]
    result = CliRunner().invoke(app, [*command, str(converted_checkpoint), str(tmp_path / "adapter")])
    assert result.exit_code == 0, result.output
    assert "6 adapted layers; trained in full: model.visual.projector." in result.output
    result = CliRunner().invoke(app, [*command, str(source.parent), str(tmp_path / "other")])
    assert result.exit_code == 1


@pytest.mark.parametrize(
    "values", [{"hidden_size": 2**16}, {"vocab_size": 2**22}, {"num_hidden_layers": 2**10}], ids=str
)
def test_sizes_of_the_base_are_compared_with_its_weights(source, converted_checkpoint, tmp_path, values):
    base = shutil.copytree(converted_checkpoint, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["text_config"] |= values
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"Expected `text_config.{next(iter(values))}` in {base / 'config.json'}"):
        convert_lora(source, base, tmp_path / "output")
    assert not (tmp_path / "output").exists()
