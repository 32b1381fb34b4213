# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The vision encoder: towers at any view size, packing of patches, what runs and what is frozen."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan
from llava_uhd_v2_hf.model.towers_llava_uhd_v2 import ClipTower
from llava_uhd_v2_hf.model.vision_llava_uhd_v2 import LlavaUhdV2VisionEncoder
from tests.support.recordings import read_pixels, read_recording


SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
TOWERS = {
    "clip": {"model_type": "clip_vision_model", "intermediate_size": 48, **SMALL},
    "siglip": {"model_type": "siglip_vision_model", "intermediate_size": 48, **SMALL},
    "dinov2": {"model_type": "dinov2", "mlp_ratio": 2, **SMALL},
}


def small_config(tower, **options):
    return LlavaUhdV2Config(
        vision_config=TOWERS[tower],
        text_config={"hidden_size": 64, "num_attention_heads": 2, "vocab_size": 32001},
        projector_config={"query_grid": [2, 2], "num_attention_heads": 2},
        **options,
    )


def small_encoder(tower, **options):
    torch.manual_seed(0)
    encoder = LlavaUhdV2VisionEncoder(small_config(tower, **options)).eval()
    for parameter in encoder.parameters():
        if parameter.ndim > 1:  # class token, positions and queries too: zeros would hide a mistake
            torch.nn.init.normal_(parameter, std=0.2)
    return encoder


def pack(views, patch=14):
    """(3, H, W) views -> the patches of a row of `pixel_values`, written apart from the package."""
    patches = []
    for view in views:
        for top in range(0, view.shape[1], patch):
            for left in range(0, view.shape[2], patch):
                patches.append(view[:, top : top + patch, left : left + patch].flatten())
    return torch.stack(patches)


@torch.no_grad()
def test_features_equal_the_released_tower(reference):
    description, tensors = read_recording(reference, "vit")
    tower = CLIPVisionModel(CLIPVisionConfig(**description["config"]))
    prefix = "weights.vision_model."
    state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    tower.load_state_dict(state)
    config = LlavaUhdV2Config(
        vision_config=tower.config,
        text_config={"hidden_size": 64, "num_attention_heads": 2, "vocab_size": 32001},
        vision_feature_layer=description["select_layer"],
    )
    encoder = LlavaUhdV2VisionEncoder(config).eval()
    encoder.vision_tower = tower.eval()
    checked = 0
    for recorded in description["sets"]:
        for image, features in zip(recorded["images"], recorded["features"]):
            pixels = read_pixels(reference, description["image_files"][image][0])[None] / 127.5 - 1
            got = encoder.encode_views(pixels)[-1][0]
            torch.testing.assert_close(got, tensors[features], rtol=0, atol=1e-4)
            embeddings = features.replace("features", "embeddings")
            if embeddings in tensors:
                torch.testing.assert_close(
                    ClipTower.embed_unnormalized(tower, pixels)[0], tensors[embeddings], rtol=0, atol=1e-4
                )
            checked += 1
    assert checked


@torch.no_grad()
@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("layer", [-2, -1, 1, 0])
def test_read_layer_equals_the_towers_own_hidden_state(tower, layer):
    encoder = small_encoder(tower, vision_feature_layer=layer)
    for size in ((56, 56), (28, 84)):
        views = torch.randn(2, 3, *size)
        options = {} if tower == "dinov2" else {"interpolate_pos_encoding": True}
        whole = encoder.vision_tower(views, output_hidden_states=True, **options)
        expected = encoder.tower.patches(whole.hidden_states[layer])
        hidden_states = encoder.encode_views(views)
        torch.testing.assert_close(hidden_states[-1], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("tower", TOWERS)
def test_layers_past_the_read_one_neither_run_nor_train(tower):
    encoder = small_encoder(tower).requires_grad_(True).train()
    views = torch.randn(1, 3, 28, 42)
    (tokens,) = encoder.project(encoder.encode_views(views), [views])
    tokens.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    frozen = {name for name, parameter in encoder.named_parameters() if not parameter.requires_grad}
    layers = "layer" if tower == "dinov2" else "layers"
    assert any(name.startswith(f"vision_tower.encoder.{layers}.2.") for name in frozen)
    assert not any(name.startswith(f"vision_tower.encoder.{layers}.1.") for name in frozen)
    assert not any(name.startswith("projector.") for name in frozen)


@torch.no_grad()
def test_packed_images_equal_their_views_one_by_one():
    encoder = small_encoder("clip")
    plans = [
        SlicePlan((2, 1), (28, 42), (42, 28)),
        SlicePlan((0, 0), (0, 0), (28, 42)),  # the size of the first image's slices
        SlicePlan((1, 2), (56, 14), (14, 14)),
    ]
    views = [[torch.randn(3, *size) for size in plan.view_sizes] for plan in plans]
    rows = [pack(image) for image in views]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=float("nan"))
    encoded = encoder(padded, plans, output_hidden_states=True)
    from_list = encoder(rows, plans)
    assert len(encoded.hidden_states) == encoder.num_read_layers + 1
    assert encoded.features.shape == (3, padded.shape[1], 32)
    torch.testing.assert_close(encoded.tokens, from_list.tokens, rtol=0, atol=0)
    counts = [len(image) * len(encoded.tokens) // sum(map(len, views)) for image in views]
    for image, (row, image_tokens) in enumerate(zip(rows, encoded.tokens.split(counts), strict=True)):
        alone = [encoder.encode_views(view[None])[-1] for view in views[image]]
        tokens = torch.cat(
            [encoder.project([state], [view[None]])[0][0] for state, view in zip(alone, views[image], strict=True)]
        )
        features = torch.cat([state[0] for state in alone])
        torch.testing.assert_close(image_tokens, tokens, rtol=0, atol=1e-5)
        torch.testing.assert_close(encoded.features[image, : len(row)], features, rtol=0, atol=1e-5)
        assert (encoded.features[image, len(row) :] == 0).all()
        torch.testing.assert_close(encoded.hidden_states[-1], encoded.features, rtol=0, atol=0)


@torch.no_grad()
def test_attention_weights_are_returned_for_every_layer_and_view_size():
    encoder = small_encoder("clip")
    encoder.vision_tower.set_attn_implementation("eager")
    plan = SlicePlan((2, 1), (28, 42), (42, 28))
    row = pack([torch.randn(3, *size) for size in plan.view_sizes])
    attentions = encoder([row], [plan], output_attentions=True).attentions
    assert [[tuple(weights.shape) for weights in layer] for layer in attentions] == [[(2, 2, 7, 7), (1, 2, 7, 7)]] * 2
    for weights in (weights for layer in attentions for weights in layer):
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
