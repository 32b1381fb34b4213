# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""accelerate: models off-loaded to memory or disk, maps of devices, units of FSDP."""

import pytest
import torch
from accelerate import (
    FullyShardedDataParallelPlugin,
    cpu_offload,
    disk_offload,
    dispatch_model,
    infer_auto_device_map,
    init_empty_weights,
    load_checkpoint_and_dispatch,
)
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.ecosystem.peft_accelerate import answers_of, load, logits_of, make_inputs


WHOLE = ["model.visual", "model.language_model.layers.0", "model.language_model.layers.1"]
TEXT_ON_DISK = {"model.visual": "cpu", "model.language_model": "disk", "lm_head": "disk"}
VISION_ON_DISK = {"model.visual": "disk", "model.language_model": "cpu", "lm_head": "cpu"}
LAYER_ON_DISK = {
    "model.visual": "cpu",
    "model.language_model.embed_tokens": "cpu",
    "model.language_model.layers.0": "disk",
    "model.language_model.layers.1": "cpu",
    "model.language_model.norm": "cpu",
    "model.language_model.rotary_emb": "cpu",
    "lm_head": "disk",
}
MAPS = pytest.mark.parametrize(
    "device_map", [TEXT_ON_DISK, VISION_ON_DISK, LAYER_ON_DISK], ids=["text", "vision", "layer"]
)


@pytest.fixture(scope="module")
def inputs(tiny_checkpoint):
    return make_inputs(tiny_checkpoint)


@pytest.fixture(scope="module")
def expected(tiny_checkpoint, inputs):
    """Logits and answers of the model that is in memory as a whole."""
    model = load(tiny_checkpoint)
    return logits_of(model, inputs), answers_of(model, inputs)


def num_bytes(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def offloaded(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.is_meta}


def named(model: nn.Module, device_map: dict, device: str) -> set[str]:
    modules = [name for name, place in device_map.items() if place == device]
    return {name for name, _ in model.named_parameters() if any(name.startswith(f"{module}.") for module in modules)}


def assert_same_answers(model: nn.Module, inputs, expected) -> None:
    logits, answers = expected
    torch.testing.assert_close(logits_of(model, inputs), logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(answers_of(model, inputs), answers)


@pytest.mark.client(
    "accelerate", '`from_pretrained(device_map="auto", max_memory=...)`: the rest on disk, same answers'
)
@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_what_does_not_fit_in_memory_is_on_disk(tiny_checkpoint, inputs, expected, tmp_path, share):
    """accelerate keeps room for the largest unit, which has to be loaded to run: half the memory holds nothing."""
    memory = {"cpu": int(share * num_bytes(load(tiny_checkpoint)))}
    model = load(tiny_checkpoint, device_map="auto", max_memory=memory, offload_folder=tmp_path)
    everything = {name for name, _ in model.named_parameters()}
    assert offloaded(model) == everything if share == 0.5 else set() < offloaded(model) < everything
    assert_same_answers(model, inputs, expected)


@pytest.mark.client("accelerate", "`from_pretrained(device_map={...})`: any part on disk, same answers")
@MAPS
def test_a_model_loads_with_parts_on_disk(tiny_checkpoint, inputs, expected, tmp_path, device_map):
    model = load(tiny_checkpoint, device_map=device_map, offload_folder=tmp_path)
    assert offloaded(model) == named(model, device_map, "disk")
    assert_same_answers(model, inputs, expected)


@pytest.mark.client("accelerate", "`dispatch_model` with `main_device`: any part on disk, same answers")
@MAPS
def test_a_loaded_model_is_dispatched(tiny_checkpoint, inputs, expected, tmp_path, device_map):
    model = dispatch_model(load(tiny_checkpoint), device_map, main_device="cpu", offload_dir=tmp_path)
    assert offloaded(model) == named(model, device_map, "disk")
    assert_same_answers(model, inputs, expected)


@pytest.mark.client(
    "accelerate", "`cpu_offload` and `disk_offload`: every weight loaded when it is used, same answers"
)
@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_every_weight_is_off_loaded(tiny_checkpoint, inputs, expected, tmp_path, place):
    model = load(tiny_checkpoint)
    if place == "cpu":
        cpu_offload(model, execution_device="cpu")
    else:
        disk_offload(model, tmp_path, execution_device="cpu")
    assert offloaded(model) == {name for name, _ in model.named_parameters()}
    assert_same_answers(model, inputs, expected)


@pytest.mark.client(
    "accelerate", "`init_empty_weights`, `load_checkpoint_and_dispatch`: in memory or on disk, same answers"
)
@pytest.mark.parametrize("device_map", ["auto", TEXT_ON_DISK, VISION_ON_DISK], ids=["memory", "text", "vision"])
def test_an_empty_model_is_filled(tiny_checkpoint, inputs, expected, tmp_path, device_map):
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(tiny_checkpoint))
    assert offloaded(model) == {name for name, _ in model.named_parameters()}
    model = load_checkpoint_and_dispatch(
        model,
        tiny_checkpoint,
        device_map=device_map,
        no_split_module_classes=list(model._no_split_modules),
        offload_folder=tmp_path,
    )
    assert offloaded(model) == (set() if device_map == "auto" else named(model, device_map, "disk"))
    assert_same_answers(model, inputs, expected)


def split_modules(model: nn.Module, device_map: dict) -> set[str]:
    """Those of `WHOLE` that are on more than one device."""
    devices = {name: set() for name in WHOLE}
    for parameter, _ in model.named_parameters():
        place = next(
            device for name, device in device_map.items() if not name or f"{parameter}.".startswith(f"{name}.")
        )
        for name in WHOLE:
            if parameter.startswith(f"{name}."):
                devices[name].add(place)
    return {name for name, places in devices.items() if len(places) > 1}


@pytest.mark.client("accelerate", "`infer_auto_device_map`: vision encoder and decoder layers are never split")
def test_layers_are_on_one_device_each(tiny_checkpoint):
    model = load(tiny_checkpoint)
    total, maps, split = num_bytes(model), [], set()
    for share in range(5, 105, 5):
        memory = {0: total * share // 100, 1: total * share // 300, "cpu": total}
        maps.append(infer_auto_device_map(model, memory, no_split_module_classes=model._no_split_modules))
        assert not split_modules(model, maps[-1])
        split |= split_modules(model, infer_auto_device_map(model, memory))
    assert split == set(WHOLE)
    assert max(len(set(device_map.values())) for device_map in maps) == 3


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


FSDP_NAMES = pytest.mark.parametrize(
    "names", [None, ["LlavaUhdV2VisionEncoder", "LlamaDecoderLayer"]], ids=["default", "named"]
)


@pytest.mark.client(
    "accelerate", "FSDP 1, `transformer_based_wrap`: a unit for the vision encoder and each decoder layer"
)
@FSDP_NAMES
def test_fsdp_wraps_vision_encoder_and_decoder_layers(tiny_checkpoint, inputs, expected, one_process, names):
    model, plugin = load(tiny_checkpoint), plugin_of(1, names)
    names_of = {module: name for name, module in model.named_modules()}
    plugin.set_auto_wrap_policy(model)
    options = {"use_orig_params": plugin.use_orig_params, "device_id": torch.device("cpu")}
    wrapped = FullyShardedDataParallel(model, auto_wrap_policy=plugin.auto_wrap_policy, **options)
    units = [names_of[unit.module] for unit in FullyShardedDataParallel.fsdp_modules(wrapped)]
    assert sorted(units) == sorted(["", *WHOLE])
    torch.testing.assert_close(logits_of(wrapped, inputs), expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.client(
    "accelerate", "FSDP 2, `transformer_based_wrap`: a unit for the vision encoder and each decoder layer"
)
@FSDP_NAMES
def test_fsdp2_shards_vision_encoder_and_decoder_layers(tiny_checkpoint, names):
    model = load(tiny_checkpoint)
    policy = fsdp2_prepare_auto_wrap_policy(plugin_of(2, names), model)
    assert [name for name, module in model.named_modules() if policy(module)] == WHOLE


def plugin_of(version: int, names: list[str] | None) -> FullyShardedDataParallelPlugin:
    """The layer of the tower that is never read stays frozen, which FSDP 1 takes with `use_orig_params` alone."""
    return FullyShardedDataParallelPlugin(
        fsdp_version=version,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=names,
        use_orig_params=version == 1,
    )
