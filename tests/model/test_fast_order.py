# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The reordered projector against the plain order: numbers, gradients, and what it does when layers change."""

import copy
from unittest.mock import patch

import pytest
import torch
from accelerate import cpu_offload
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file
from torch import nn

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from llava_uhd_v2_hf.model import fast_order_llava_uhd_v2 as fast_projector
from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module
from llava_uhd_v2_hf.model.configuration_llava_uhd_v2 import SUPPORTED_LEVELS
from llava_uhd_v2_hf.model.folding_llava_uhd_v2 import folding_pays, reordering_pays
from llava_uhd_v2_hf.model.operators_llava_uhd_v2 import build_operators
from llava_uhd_v2_hf.model.projectors_hiwin_llava_uhd_v2 import LlavaUhdV2Projector
from llava_uhd_v2_hf.model.upsamplers_bilinear_llava_uhd_v2 import LlavaUhdV2BilinearUpsampler
from llava_uhd_v2_hf.model.upsamplers_vdim_llava_uhd_v2 import LlavaUhdV2Upsampler
from llava_uhd_v2_hf.model.window_attention_llava_uhd_v2 import LlavaUhdV2WindowAttention
from tests.support.recordings import PROJECTOR, read_pixels, read_recording, under_our_names


def small_projector(channels=8, width=16, **options):
    config = LlavaUhdV2Config(
        vision_config={"hidden_size": channels, "num_attention_heads": 2, "patch_size": 14},
        text_config={"hidden_size": width, "num_attention_heads": 2, "vocab_size": 32001},
        projector_config={"num_attention_heads": 2, "query_grid": [3, 2], **options},
    )
    projector = LlavaUhdV2Projector(config)
    torch.manual_seed(0)
    for parameter in projector.parameters():
        nn.init.normal_(parameter, std=0.5)
    return projector.eval()


def random_views(grid, channels=8, views=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(views, channels, *grid, generator=generator, dtype=dtype)
    return features, torch.randn(views, 3, 14 * grid[0], 14 * grid[1], generator=generator, dtype=dtype)


@pytest.fixture(autouse=True, scope="module")
def reorder_always():
    """Toy sizes too."""
    with patch.object(projector_module, "reordering_pays", lambda *_: True):
        yield


def run(projector, features, pixels, plain=False):
    return projector([features], [pixels], plain=plain)[0]


def output_and_gradients(projector, features, pixels, plain):
    projector.zero_grad()
    features = features.clone().requires_grad_()
    torch.manual_seed(2)  # the up-sampler's dropout
    tokens = projector([features], [pixels], plain=plain)[0]
    (tokens * torch.arange(tokens.numel()).view_as(tokens).cos()).sum().backward()
    gradients = {name: parameter.grad for name, parameter in projector.named_parameters()}
    return {"tokens": tokens.detach(), "features": features.grad, **gradients}


@settings(max_examples=25, deadline=None)
@given(
    grid=st.sampled_from([(5, 7), (1, 3), (4, 1), (12, 2), (3, 13), (8, 8)]),
    levels=st.sampled_from(SUPPORTED_LEVELS),
    upsampler=st.sampled_from(["vdim", "bilinear"]),
    rule=st.sampled_from(["selective", "fixed", "pyramid"]),
    sets=st.sampled_from([1, 4]),
    query_grid=st.sampled_from([(3, 2), (5, 4)]),
    sizes=st.sampled_from([(8, 16), (4, 24), (20, 8)]),
    training=st.booleans(),
    folded=st.booleans(),
)
def test_output_and_all_gradients_equal_the_plain_order(
    grid, levels, upsampler, rule, sets, query_grid, sizes, training, folded
):
    options = {"levels": levels, "upsampler": upsampler, "num_query_sets": sets, "query_grid": query_grid}
    options["pooling_grid_rule"] = rule
    projector = small_projector(*sizes, **options).double().train(training)
    views = random_views(grid, channels=sizes[0], dtype=torch.float64)
    expected = output_and_gradients(projector, *views, plain=True)
    with patch.object(projector_module, "folding_pays", lambda *_, **__: folded):
        got = output_and_gradients(projector, *views, plain=False)
    for name, tensor in expected.items():
        assert got[name] is not None, name
        assert (got[name] - tensor).abs().max() <= 1e-10 * tensor.abs().max().clamp(min=1), name
    with torch.no_grad():
        torch.manual_seed(2)
        torch.testing.assert_close(run(projector, *views), expected["tokens"], rtol=1e-10, atol=1e-10)


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    steps=st.integers(0, 3),
    kernel_size=st.sampled_from([1, 3, 5, 7]),
    upsampler=st.sampled_from([LlavaUhdV2Upsampler, LlavaUhdV2BilinearUpsampler]),
)
def test_operators_make_every_level(grid, steps, kernel_size, upsampler):
    torch.manual_seed(0)
    levels = {0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 2, 3]}[steps]
    config = LlavaUhdV2ProjectorConfig(levels=levels, upsampler_kernel_size=kernel_size)
    upsample = upsampler(config, 6).double().eval()
    features, pixels = random_views(grid, channels=6, dtype=torch.float64)
    pyramid = upsample(features, pixels)
    levels = upsample.linear_levels(features, pixels)
    for views in (slice(0, 2), slice(1, 2)):
        for operator, level, maps in zip(build_operators(levels, views, grid), levels, pyramid, strict=True):
            made = torch.einsum("vyxm,vmc->vcyx", operator, level.sources[views])
            torch.testing.assert_close(made, maps[views])


@torch.no_grad()
def test_chunks_bands_and_strips_change_no_number(monkeypatch):
    for options in ({}, {"levels": [0, 1, 2, 3]}, {"levels": [0]}, {"upsampler": "bilinear"}):
        projector = small_projector(query_grid=[6, 2], **options).double()
        views = random_views((9, 5), views=5, dtype=torch.float64)
        expected = run(projector, *views)
        for name in ("CHUNK_BYTES", "BAND_BYTES", "STRIP_BYTES", "OUTPUT_BYTES"):
            monkeypatch.setattr(fast_projector, name, 1)
            torch.testing.assert_close(run(projector, *views), expected, rtol=1e-12, atol=1e-12)
        monkeypatch.undo()


def runs_reordered(monkeypatch, projector, views):
    """Whether a call takes the other order; its result equals the plain order's either way."""
    calls = []
    original = projector_module.project_views
    monkeypatch.setattr(projector_module, "project_views", lambda *arguments: calls.append(1) or original(*arguments))
    with torch.no_grad():
        torch.testing.assert_close(run(projector, *views), run(projector, *views, plain=True), rtol=1e-4, atol=1e-4)
    monkeypatch.undo()
    return bool(calls)


def test_nothing_stale_after_weights_change_in_place(monkeypatch):
    projector, views = small_projector(), random_views((6, 5))
    assert runs_reordered(monkeypatch, projector, views)
    for name, parameter in projector.named_parameters():
        parameter.data += 0.1
        assert runs_reordered(monkeypatch, projector, views), name
    projector.load_state_dict(small_projector().state_dict())
    assert runs_reordered(monkeypatch, projector, views)
    assert runs_reordered(monkeypatch, copy.deepcopy(projector), views)


@pytest.mark.parametrize("target", ["key", "value", "level_projections.2", "fixups.2"])
def test_layers_with_lora_are_called_and_plain_again_once_merged(monkeypatch, target):
    projector, views = small_projector(), random_views((6, 5))
    config = LoraConfig(target_modules=rf".*\.{target}", r=2, init_lora_weights=False)
    inject_adapter_in_model(config, projector)
    assert not runs_reordered(monkeypatch, projector, views)
    layer = next(module for module in projector.modules() if hasattr(module, "lora_A"))
    layer.merge()
    assert not runs_reordered(monkeypatch, projector, views)
    layer.unmerge()
    assert not runs_reordered(monkeypatch, projector, views)


def test_hooked_off_loaded_and_foreign_layers_are_called(monkeypatch):
    views = random_views((6, 5))
    hooked = small_projector()
    hooked.window_attention.key.register_forward_hook(lambda *_: None)
    assert not runs_reordered(monkeypatch, hooked, views)

    for part in ("upsampler", "upsampler.stages.0"):
        seen = small_projector()
        calls = []
        seen.get_submodule(part).register_forward_hook(lambda *_, calls=calls: calls.append(1))
        assert not runs_reordered(monkeypatch, seen, views) and len(calls) >= 2

    class Doubled(nn.Linear):
        def forward(self, states):
            return 2 * super().forward(states)

    foreign = small_projector()
    foreign.window_attention.value.__class__ = Doubled
    assert not runs_reordered(monkeypatch, foreign, views)

    off_loaded = small_projector()
    cpu_offload(off_loaded, execution_device=torch.device("cpu"))
    assert not runs_reordered(monkeypatch, off_loaded, views)


@torch.no_grad()
@pytest.mark.parametrize("outliers", [1, 50])
@pytest.mark.parametrize("folded", [True, False])
def test_half_precision_errs_no_more_than_the_plain_order(reference, outliers, folded):
    """On recorded weights and views; also with four channels fifty times larger, as CLIP has some."""
    description, tensors = read_recording(reference, "hiwin")
    released = {}
    for name, tensor in load_file(reference / "hiwin_weights.safetensors").items():
        if name.startswith("stack4x."):
            released["model.mm_projector." + name.removeprefix("stack4x.")] = tensor
    projector = small_projector(
        description["mm_hidden_size"], description["embed_dim"], query_grid=[12, 12], levels=[0, 1, 2]
    )
    config = LlavaUhdV2ProjectorConfig(levels=[0, 1, 2], num_attention_heads=2)
    projector.load_state_dict(under_our_names(released, config, PROJECTOR))
    height, width = description["layout"][0][0]
    features = tensors["features_padded"][:1, : height * width].mT.reshape(1, -1, height, width).clone()
    features[:, ::8] *= outliers
    pixels = read_pixels(reference, description["image_files"]["image_u8_0"][0])[None] / 127.5 - 1
    expected = run(projector, features, pixels, plain=True)
    half = copy.deepcopy(projector).bfloat16()
    with patch.object(projector_module, "folding_pays", lambda *_, **__: folded):
        errors = {
            plain: (run(half, features.bfloat16(), pixels, plain=plain).float() - expected).square().mean().sqrt()
            for plain in (True, False)
        }
    assert errors[False] <= errors[True], errors


def test_autocast_keeps_the_operator_in_float32():
    projector, views = small_projector(), random_views((6, 5))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = run(projector, *views)
    expected = run(projector, *views)
    assert (tokens - expected).abs().max() <= 4 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


@torch.no_grad()
def test_a_fold_is_kept_until_the_weights_change(monkeypatch):
    projector, views = small_projector(), random_views((6, 5))
    folds = []
    original = projector_module.multiply_weights
    monkeypatch.setattr(
        projector_module, "multiply_weights", lambda *args, **kw: folds.append(1) or original(*args, **kw)
    )

    def equals_plain_order(expected_folds):
        folds.clear()
        torch.testing.assert_close(run(projector, *views), run(projector, *views, plain=True), rtol=1e-4, atol=1e-4)
        return len(folds) == expected_folds

    projector.fold()
    state = projector.state_dict()
    assert equals_plain_order(0)
    assert projector.state_dict().keys() == state.keys() == small_projector().state_dict().keys()
    assert copy.deepcopy(projector)._folded is not None

    attention = projector.window_attention
    weights = (attention.queries, attention.key.weight, attention.level_projections["2"].bias)
    for change in (lambda data: data + 0.1, lambda data: data.flip(0), lambda data: data.flip(-1), torch.neg):
        for weight in weights:
            projector.fold()
            weight.data = change(weight.data)
            assert equals_plain_order(1) and equals_plain_order(1)
    projector.fold()
    attention.key = copy.deepcopy(attention.value)
    assert equals_plain_order(1)
    projector.fold()
    projector.load_state_dict(small_projector().state_dict())
    assert equals_plain_order(1)
    for change in (projector.double, projector.float, projector.unfold):
        projector.fold()
        assert projector._folded is not None
        change()
        assert projector._folded is None
    projector.fold()
    projector.train().eval()
    assert projector._folded is None


def test_a_fold_gives_way_to_gradients_and_adapters():
    projector, views = small_projector(), random_views((6, 5))
    projector.fold()
    expected = output_and_gradients(projector, *views, plain=True)
    got = output_and_gradients(projector, *views, plain=False)
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-3, atol=1e-4, msg=name)

    inject_adapter_in_model(LoraConfig(target_modules=".*value", r=2, init_lora_weights=False), projector)
    with torch.no_grad():
        torch.testing.assert_close(run(projector, *views), run(projector, *views, plain=True), rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match="wrapped by LoRA"):
            projector.fold()
        lora = projector.window_attention.value
        lora.merge()
        projector.window_attention.value = lora.get_base_layer()  # what `merge_and_unload` does
        torch.testing.assert_close(run(projector, *views), run(projector, *views, plain=True), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="training mode"):
        projector.train().fold()


@torch.no_grad()
def test_views_of_several_sizes_share_one_product_of_weights(monkeypatch):
    projector = small_projector()
    sizes = [random_views((6, 5), views=3), random_views((2, 9)), random_views((4, 4), views=1)]
    calls = []
    original = projector_module.multiply_weights
    monkeypatch.setattr(projector_module, "multiply_weights", lambda *args: calls.append(1) or original(*args))
    together = projector([features for features, _ in sizes], [pixels for _, pixels in sizes])
    assert calls == [1]
    for tokens, views in zip(together, sizes, strict=True):
        torch.testing.assert_close(tokens, run(projector, *views), rtol=1e-4, atol=1e-5)


def test_training_follows_inference_of_the_same_size():
    projector, views = small_projector(), random_views((7, 3))
    with torch.inference_mode():
        run(projector, *views)
    run(projector, *views).sum().backward()
    assert all(parameter.grad is not None for parameter in projector.parameters())


def test_reordering_pays_at_the_default_size_and_not_for_toys():
    with torch.device("meta"):
        attention = LlavaUhdV2WindowAttention(LlavaUhdV2Config())
    assert reordering_pays(attention, (24, 24), 9) and reordering_pays(attention, (12, 48), 8)
    assert not reordering_pays(small_projector().window_attention, (24, 24), 9)
    for channels, pays in (
        (128, False),
        (256, True),
    ):  # on either side of equal times, by benchmarks/projector_forms.py
        attention = small_projector(channels, 2 * channels, query_grid=[12, 12]).window_attention
        assert reordering_pays(attention, (24, 24), 9) is pays


def test_folding_pays_with_several_views_at_the_default_size():
    with torch.device("meta"):
        attention = LlavaUhdV2WindowAttention(LlavaUhdV2Config())
    for training, fewest in ((False, 5), (True, 3)):
        pays = [folding_pays(attention, [9] * views, training) for views in (1, fewest - 1, fewest, 7, 48)]
        assert pays == [False, False, True, True, True]


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_no_graph_break(folded, training):
    projector, views = small_projector(), random_views((6, 5))
    torch.compiler.reset()
    with patch.object(projector_module, "folding_pays", lambda *_, **__: folded), torch.set_grad_enabled(training):
        compiled = torch.compile(projector.forward, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*views)[0], run(projector, *views))


@torch.no_grad()
def test_compiled_code_reads_the_weights_as_they_are():
    projector, views = small_projector(), random_views((6, 5))
    projector.fold()
    torch.compiler.reset()
    compiled = torch.compile(projector.forward, fullgraph=True, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(*views)[0], run(projector, *views, plain=True), rtol=1e-4, atol=1e-4)
        projector.window_attention.value.weight.data += 0.1


@torch.no_grad()
@pytest.mark.slow
def test_compiled_to_machine_code():
    projector, views = small_projector(), random_views((6, 5))
    torch.compiler.reset()
    compiled = torch.compile(projector.forward, fullgraph=True)
    torch.testing.assert_close(compiled(*views)[0], run(projector, *views, plain=True), rtol=1e-4, atol=1e-4)
