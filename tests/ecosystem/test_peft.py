# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""PEFT, and transformers' own use of it: adapters trained, saved, loaded, merged, swapped and mixed."""

import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap
from torch import nn

from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module
from llava_uhd_v2_hf.training.adapter_settings import LoraSettings
from llava_uhd_v2_hf.training.adapters import lora_targets
from llava_uhd_v2_hf.training.parameter_groups import part_of
from tests.ecosystem.peft_accelerate import answers_of, load, logits_of, make_inputs


TEXT_MODEL = {"target_modules": "all-linear", "exclude_modules": r".*visual.*"}
RECOMMENDED = {**TEXT_MODEL, "modules_to_save": ["window_attention"]}


class Adapter(NamedTuple):
    folder: Path
    logits: torch.Tensor


@pytest.fixture(scope="module")
def inputs(tiny_checkpoint):
    return make_inputs(tiny_checkpoint)


@pytest.fixture(scope="module")
def base_logits(tiny_checkpoint, inputs):
    return logits_of(load(tiny_checkpoint), inputs)


@pytest.fixture(scope="module")
def adapters(tiny_checkpoint, inputs, tmp_path_factory) -> dict[str, Adapter]:
    """Adapters of the text model; "recommended" has a window attention of its own too."""
    configs = {
        "small": LoraConfig(r=4, **TEXT_MODEL),
        "strong": LoraConfig(r=4, lora_alpha=32, **TEXT_MODEL),
        "large": LoraConfig(r=8, **TEXT_MODEL),
        "recommended": LoraConfig(r=4, **RECOMMENDED),
    }
    made = {}
    for name, config in configs.items():
        folder = tmp_path_factory.mktemp("adapters") / name
        model = make_adapter(tiny_checkpoint, inputs, config)
        model.save_pretrained(folder)
        made[name] = Adapter(folder, logits_of(model, inputs))
    return made


def make_adapter(checkpoint: Path, inputs, config: LoraConfig) -> PeftModel:
    model = get_peft_model(load(checkpoint), config)
    train(model, inputs)
    return model


def train(model: nn.Module, inputs) -> None:
    """A few steps, after which the loss is smaller."""
    of_text = (inputs["input_ids"] != model.config.image_token_id) & inputs["attention_mask"].bool()
    labels = inputs["input_ids"].masked_fill(~of_text, -100)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    losses = []
    for _ in range(4):
        losses.append(model(**inputs, labels=labels).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


def load_adapters(checkpoint: Path, adapters: dict[str, Adapter], *names: str) -> PeftModel:
    model = PeftModel.from_pretrained(load(checkpoint), adapters[names[0]].folder, adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(adapters[name].folder, name)
    return model


def adapted_parts(model: nn.Module) -> Counter:
    """How many layers of each part are adapted."""
    layers = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    return Counter(part_of(f"{name}.weight") for name in layers)


def assert_logits(model: nn.Module, inputs, expected: torch.Tensor, **options) -> None:
    """The numbers are the same; after a merge of weights up to rounding."""
    torch.testing.assert_close(logits_of(model, inputs, **options), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.client("peft", "LoRA, DoRA and rsLoRA: train, save, load, merge, unmerge, disable, same logits")
@pytest.mark.parametrize("kind", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_an_adapter_is_trained_saved_loaded_and_merged(tiny_checkpoint, inputs, base_logits, tmp_path, kind):
    trained = make_adapter(tiny_checkpoint, inputs, LoraConfig(r=4, **RECOMMENDED, **kind))
    expected = logits_of(trained, inputs)
    assert (expected - base_logits).abs().max() > 1
    trained.save_pretrained(tmp_path / "adapter")

    model = PeftModel.from_pretrained(load(tiny_checkpoint), tmp_path / "adapter")
    assert torch.equal(logits_of(model, inputs), expected)
    model.merge_adapter()
    assert_logits(model, inputs, expected)
    model.unmerge_adapter()
    assert_logits(model, inputs, expected)
    with model.disable_adapter():
        assert_logits(model, inputs, base_logits)

    merged = model.merge_and_unload()
    assert_logits(merged, inputs, expected)
    weight = "model.visual.projector.window_attention.value.weight"
    assert not torch.equal(merged.get_parameter(weight), load(tiny_checkpoint).get_parameter(weight))
    merged.save_pretrained(tmp_path / "merged")
    assert_logits(load(tmp_path / "merged"), inputs, expected)


@pytest.mark.client("peft", '`"all-linear"` without `.*visual.*`: adapts the layers that `sft-lora` adapts')
def test_the_recommended_targets_are_those_of_our_recipe(tiny_checkpoint):
    """`q_proj` and `v_proj` alone name layers of the tower too."""
    plain = load(tiny_checkpoint)
    recipe = {name for name, _ in plain.named_modules() if re.fullmatch(lora_targets(plain, LoraSettings()), name)}
    model = get_peft_model(load(tiny_checkpoint), LoraConfig(**RECOMMENDED))
    adapted = {name for name, module in model.get_base_model().named_modules() if isinstance(module, BaseTunerLayer)}
    assert adapted == recipe and len(recipe) == 14
    trained = {part_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"language_model", "window_attention", "positions"}
    by_name = get_peft_model(load(tiny_checkpoint), LoraConfig(target_modules=["q_proj", "v_proj"]))
    assert adapted_parts(by_name) == {"vision_tower": 4, "language_model": 4}
    with pytest.raises(ValueError, match="Please specify `target_modules`"):
        get_peft_model(load(tiny_checkpoint), LoraConfig())


@pytest.mark.client("peft", '`"all-linear"`: adapts tower, projector and text model, not the head; merges exactly')
def test_all_linear_adapts_tower_projector_and_text_model(tiny_checkpoint, inputs, base_logits):
    """The projector's other order of operations, which reads weights, runs only after the merge."""
    with patch.object(projector_module, "reordering_pays", lambda *_: True):
        model = make_adapter(tiny_checkpoint, inputs, LoraConfig(r=4, target_modules="all-linear"))
        parts = {"vision_tower": 12, "fixups": 1, "window_attention": 8, "language_model": 14}
        assert adapted_parts(model) == parts
        assert type(model.get_output_embeddings()) is nn.Linear
        unchanged = [name for name, weight in model.named_parameters() if ".lora_B." in name and not weight.any()]
        assert len(unchanged) == 6 and all(".vision_tower.encoder.layers.1." in name for name in unchanged)

        expected = logits_of(model, inputs)
        assert (expected - base_logits).abs().max() > 1
        with patch.object(projector_module, "project_views", side_effect=projector_module.project_views) as reordered:
            assert_logits(model, inputs, expected)
            assert not reordered.called
            merged = model.merge_and_unload()
            assert_logits(merged, inputs, expected)
            assert reordered.called


@pytest.mark.client("peft", "`hotswap_adapter`: the other adapter's logits, also of another rank and scale")
@pytest.mark.parametrize("target_rank", [None, 8], ids=["as it is", "prepared"])
def test_an_adapter_is_swapped(tiny_checkpoint, inputs, adapters, target_rank):
    model = load_adapters(tiny_checkpoint, adapters, "small")
    if target_rank:
        prepare_model_for_compiled_hotswap(model, target_rank=target_rank)
        assert_logits(model, inputs, adapters["small"].logits)
    for name in ("strong", "large", "small"):
        hotswap_adapter(model, adapters[name].folder, adapter_name="small", torch_device="cpu")
        assert_logits(model, inputs, adapters[name].logits)


@pytest.mark.client("peft", "`hotswap_adapter` under `torch.compile`: no compilation anew")
def test_an_adapter_is_swapped_in_a_compiled_model(tiny_checkpoint, inputs, adapters):
    model = load_adapters(tiny_checkpoint, adapters, "small")
    prepare_model_for_compiled_hotswap(model, target_rank=8)
    compiled = []
    model.get_base_model().model.language_model.compile(backend=lambda graph, _: compiled.append(graph) or graph)
    assert_logits(model, inputs, adapters["small"].logits)
    count = len(compiled)
    for name in ("strong", "large", "small"):
        hotswap_adapter(model, adapters[name].folder, adapter_name="small", torch_device="cpu")
        assert_logits(model, inputs, adapters[name].logits)
    assert count and len(compiled) == count


@pytest.mark.client("peft", "`load_adapter`, `add_adapter`, `set_adapter`, `delete_adapter`: several adapters in turn")
def test_several_adapters_in_turn(tiny_checkpoint, inputs, base_logits, adapters):
    names = ["small", "recommended", "large"]
    model = load_adapters(tiny_checkpoint, adapters, *names)
    model.add_adapter("new", LoraConfig(r=2, use_dora=True, **RECOMMENDED))
    for name in (*names, *reversed(names)):
        model.set_adapter(name)
        assert torch.equal(logits_of(model, inputs), adapters[name].logits)
    model.set_adapter("new")
    assert_logits(model, inputs, base_logits)
    train(model, inputs)
    assert (logits_of(model, inputs) - base_logits).abs().max() > 1
    model.delete_adapter("new")
    for name in names:
        model.set_adapter(name)
        assert torch.equal(logits_of(model, inputs), adapters[name].logits)


@pytest.mark.client("peft", "`add_weighted_adapter`: the sum of adapters, same logits as both at once")
@pytest.mark.parametrize("combination", ["cat", "svd"])
def test_a_weighted_sum_of_adapters(tiny_checkpoint, inputs, adapters, combination):
    model = load_adapters(tiny_checkpoint, adapters, "small", "large")
    rank = {"svd_rank": 12} if combination == "svd" else {}
    model.add_weighted_adapter(["small", "large"], [1.0, 1.0], "sum", combination_type=combination, **rank)
    model.set_adapter("sum")
    logits = logits_of(model, inputs)
    assert min((logits - adapters[name].logits).abs().max() for name in ("small", "large")) > 1
    model.base_model.set_adapter(["small", "large"])
    assert_logits(model, inputs, logits)


@pytest.mark.client("peft", "`adapter_names=`: each prompt of a batch with its own adapter, forward, greedy and beams")
@pytest.mark.parametrize("num_beams", [1, 2])
def test_each_prompt_has_its_own_adapter(tiny_checkpoint, inputs, base_logits, adapters, num_beams):
    model = load_adapters(tiny_checkpoint, adapters, "small", "large")
    names = ["small", "__base__", "large"]
    logits = [adapters["small"].logits[0], base_logits[1], adapters["large"].logits[2]]
    assert_logits(model, inputs, torch.stack(logits), adapter_names=names)

    mixed = answers_of(model, inputs, adapter_names=names, num_beams=num_beams)
    for row, name in enumerate(names):
        alone = load(tiny_checkpoint) if name == "__base__" else load_adapters(tiny_checkpoint, adapters, name)
        assert torch.equal(mixed[row], answers_of(alone, inputs, num_beams=num_beams)[row])
    assert len({tuple(row.tolist()) for row in mixed}) == 3


@pytest.mark.client(
    "peft", "`adapter_names=` with an adapted tower or projector: refused by PEFT, which counts prompts"
)
def test_mixed_batches_are_refused_where_images_are_adapted(tiny_checkpoint, inputs):
    """The tower's batch is one of views."""
    model = get_peft_model(load(tiny_checkpoint), LoraConfig(target_modules=r".*vision_tower.*q_proj")).eval()
    with pytest.raises(ValueError, match="should be the same as the number of inputs"):
        model(**inputs, adapter_names=["default"] * 3)


@pytest.fixture
def any_peft(monkeypatch):
    """transformers 5.24 asks for PEFT 0.22, which is newer than any release; what is tested here runs without it."""
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", version("peft"))


@pytest.mark.client("peft", "transformers' `from_pretrained` of an adapter folder, and `load_adapter`")
@pytest.mark.parametrize("name", ["small", "recommended"])
def test_transformers_loads_an_adapter(tiny_checkpoint, inputs, adapters, name):
    assert torch.equal(logits_of(load(adapters[name].folder), inputs), adapters[name].logits)
    model = load(tiny_checkpoint)
    model.load_adapter(adapters[name].folder)
    assert torch.equal(logits_of(model, inputs), adapters[name].logits)


@pytest.mark.client(
    "peft", "transformers' `add_adapter` (its PEFT version check lowered): train, save, load, disable, delete"
)
def test_transformers_adds_an_adapter(tiny_checkpoint, inputs, base_logits, tmp_path, any_peft):
    model = load(tiny_checkpoint)
    model.add_adapter(LoraConfig(r=4, **RECOMMENDED))
    train(model, inputs)
    expected = logits_of(model, inputs)
    assert (expected - base_logits).abs().max() > 1
    model.save_pretrained(tmp_path)
    for loaded in (load(tmp_path), PeftModel.from_pretrained(load(tiny_checkpoint), tmp_path)):
        assert torch.equal(logits_of(loaded, inputs), expected)
    model.disable_adapters()
    assert torch.equal(logits_of(model, inputs), base_logits)
    model.delete_adapter("default")
    assert torch.equal(logits_of(model, inputs), base_logits)


@pytest.mark.client(
    "peft", "transformers' `set_adapter`, `disable_adapters`, `enable_adapters` (its PEFT version check lowered)"
)
def test_transformers_changes_between_adapters(tiny_checkpoint, inputs, base_logits, adapters, any_peft):
    model = load(adapters["small"].folder)
    model.load_adapter(adapters["large"].folder, "large")
    for name in ("large", "default", "large"):
        model.set_adapter(name)
        assert model.active_adapters() == [name]
        expected = adapters["small" if name == "default" else name].logits
        assert torch.equal(logits_of(model, inputs), expected)
    model.disable_adapters()
    assert torch.equal(logits_of(model, inputs), base_logits)
    model.enable_adapters()
    assert torch.equal(logits_of(model, inputs), adapters["large"].logits)
