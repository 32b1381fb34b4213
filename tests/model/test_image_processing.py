# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor: pixels and plans of the released code, one image or many."""

import json
import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors.numpy import load_file
from transformers import AutoImageProcessor

from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan
from llava_uhd_v2_hf.model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor


@pytest.fixture
def processor():
    return LlavaUhdV2ImageProcessor()


@pytest.fixture(scope="module")
def recorded(reference):
    folder = reference / "pixels"
    entries = json.loads((folder / "manifest.json").read_text())["images"]
    assert entries
    return folder, entries


@pytest.fixture
def pixels():
    """(200, 300, 3) of integers from 0 to 255."""
    return np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)


def unpack(row, image_size, patch_size=14):
    """A row of `pixel_values` -> every view as (height, width, 3), and what is left of the row."""
    views, begin = [], 0
    for height, width in SlicePlan.from_image_size(image_size, patch_size).view_sizes:
        h, w = height // patch_size, width // patch_size
        patches = row[begin : begin + h * w].reshape(h, w, 3, patch_size, patch_size)
        views.append(patches.transpose(0, 3, 1, 4, 2).reshape(height, width, 3))
        begin += h * w
    return views, row[begin:]


def assert_equal(outputs, expected):
    assert set(outputs) == set(expected)
    for key in expected:
        np.testing.assert_array_equal(outputs[key], expected[key])


def test_views_are_the_recorded_ones(processor, recorded):
    """As 8-bit images, exactly; images of one batch are padded to the longest row."""
    folder, entries = recorded
    for max_slices in {entry["max_slice_nums"] for entry in entries}:
        batch = [entry for entry in entries if entry["max_slice_nums"] == max_slices]
        images = [Image.open(folder / entry["file"]) for entry in batch]
        out = processor(images, max_slices=max_slices, do_rescale=False, do_normalize=False)
        longest = 0
        for entry, row, image_size in zip(batch, out["pixel_values"], out["image_sizes"], strict=True):
            views, rest = unpack(row, image_size)
            files = [*entry["slices"], entry["overview"]]
            for view, file in zip(views, files, strict=True):
                np.testing.assert_array_equal(view, np.asarray(Image.open(folder / file).convert("RGB")), file)
            assert list(image_size[:2]) == (entry["best_grid"] or [0, 0])[::-1]
            assert not rest.any()
            longest = max(longest, len(row) - len(rest))
        assert out["pixel_values"].shape == (len(batch), longest, 588)


def test_normalised_views_are_the_recorded_ones(processor, recorded):
    folder, entries = recorded
    normalised = load_file(folder / "normalised.safetensors")
    checked = 0
    for entry in entries:
        out = processor(Image.open(folder / entry["file"]), max_slices=entry["max_slice_nums"])
        views, _ = unpack(out["pixel_values"][0], out["image_sizes"][0])
        names = [file.removesuffix(".png") for file in [*entry["slices"], entry["overview"]]]
        for name in set(entry["normalised"]) & set(normalised):
            view = views[names.index(name)].transpose(2, 0, 1)
            np.testing.assert_allclose(view, normalised[name], atol=1e-6)
            checked += 1
    assert checked


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_arrays_equal_pil_images(processor, pixels, convert):
    expected = processor(Image.fromarray(pixels))
    for array in (pixels, pixels.transpose(2, 0, 1).copy(), pixels.astype(np.int64)):
        assert_equal(processor(convert(array)), expected)
    batch = processor(convert(np.stack([pixels, pixels])))
    assert batch["image_sizes"].tolist() == expected["image_sizes"].tolist() * 2


def test_channel_order_can_be_given(processor):
    ambiguous = np.random.default_rng(1).integers(0, 256, (3, 50, 3), dtype=np.uint8)
    expected = processor(Image.fromarray(ambiguous))
    assert_equal(processor(ambiguous, input_data_format="channels_last"), expected)


@pytest.mark.parametrize("order", [None, "channels_first", "channels_last"])
def test_grey_needs_no_channel_order(processor, order):
    grey = np.random.default_rng(1).integers(0, 256, (50, 40), dtype=np.uint8)
    expected = processor(Image.fromarray(np.stack([grey] * 3, axis=-1)))
    for array in (grey, torch.from_numpy(grey)):
        assert_equal(processor([array], input_data_format=order), expected)


@pytest.mark.parametrize("do_rescale", [True, False])
def test_floats_are_in_the_unit_range_rescaled_or_not(processor, pixels, do_rescale):
    expected = processor(pixels)
    for floats in (pixels / 255, torch.from_numpy(pixels).float() / 255, torch.from_numpy(pixels / 255)):
        out = processor(floats, do_rescale=do_rescale)
        np.testing.assert_allclose(out["pixel_values"], expected["pixel_values"], atol=1e-6)
    processor(torch.rand(3, 20, 20, dtype=torch.bfloat16), do_rescale=do_rescale)


def test_other_modes_become_rgb(processor, pixels):
    alpha = np.concatenate([pixels, pixels[..., :1]], axis=-1)  # dropped, not composited
    expected = processor(pixels)
    for image in (Image.fromarray(alpha), alpha, alpha.transpose(2, 0, 1), torch.from_numpy(alpha)):
        assert_equal(processor(image), expected)

    grey = pixels[..., 0]
    expected = processor(np.repeat(grey[..., None], 3, axis=-1))
    for image in (Image.fromarray(grey), grey[..., None], grey[None], torch.from_numpy(grey[None])):
        assert_equal(processor(image), expected)

    palette = Image.fromarray(pixels).quantize(16)
    assert_equal(processor(palette), processor(palette.convert("RGB")))


def test_exif_orientation_is_applied(processor, pixels, tmp_path):
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees, clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = processor(np.rot90(pixels, -1))
    assert_equal(processor(Image.open(tmp_path / "turned.png")), expected)
    assert_equal(processor(str(tmp_path / "turned.png")), expected)


def test_mixed_forms_and_nested_lists_make_one_batch(processor, pixels):
    out = processor([[Image.fromarray(pixels)], [], [pixels, torch.from_numpy(pixels)]], return_tensors="pt")
    assert out["pixel_values"].dtype == torch.float32
    assert out["image_sizes"].dtype == torch.int64
    assert out["image_sizes"].shape == (3, 6)
    assert torch.equal(out["pixel_values"][0], out["pixel_values"][2])


def test_an_image_is_alike_alone_and_in_a_batch(processor, pixels):
    small, large = processor(pixels), processor(np.tile(pixels, (2, 3, 1)))
    out = processor([pixels, np.tile(pixels, (2, 3, 1))])
    length = small["pixel_values"].shape[1]
    np.testing.assert_array_equal(out["pixel_values"][0, :length], small["pixel_values"][0])
    np.testing.assert_array_equal(out["pixel_values"][1], large["pixel_values"][0])


@pytest.mark.parametrize(
    "settings", [{}, {"max_slices": 1}, {"max_slices": 9}, {"slice_resolution": 112}, {"patch_size": 16}]
)
def test_number_of_patches_is_the_length_of_the_row(processor, settings):
    for height, width in ((300, 400), (20, 900), (700, 1000)):
        out = processor(Image.new("RGB", (width, height)), **settings)
        assert processor.get_number_of_image_patches(height, width, settings) == out["pixel_values"].shape[1]
        built = LlavaUhdV2ImageProcessor(**settings)
        assert built.get_number_of_image_patches(height, width) == out["pixel_values"].shape[1]


def test_max_slices_of_each_image(processor, pixels):
    image = np.tile(pixels, (4, 4, 1))
    expected = [processor(image, max_slices=limit)["image_sizes"][0] for limit in (1, 4, 9)]
    assert len({tuple(row) for row in expected}) == 3
    for max_slices in ([1, 4, 9], [[1], [], [4, 9]]):
        for images in ([image] * 3, [[image], [], [image] * 2]):
            out = processor(images, max_slices=max_slices)
            np.testing.assert_array_equal(out["image_sizes"], expected)


@pytest.mark.parametrize(
    ("max_slices", "nested", "message"),
    [
        ([1, 2], False, "has 2 entries and there are 3 images"),
        ([1, 2, 3, 4], True, r"has 4 entries and there are \[1, 2\] images"),
        ([[1, 2], [3]], True, r"has \[2, 1\] entries and there are \[1, 2\] images"),
        ([[1, 2]], False, r"has \[2\] entries and there are 3 images"),
        ([1, 0, 2], False, "`max_slices` must be at least 1, got 0"),
    ],
)
def test_max_slices_must_fit_the_images(processor, pixels, max_slices, nested, message):
    images = [[pixels], [pixels, pixels]] if nested else [pixels] * 3
    with pytest.raises(ValueError, match=message):
        processor(images, max_slices=max_slices)
    with pytest.raises(ValueError, match=r"one number, got \[1, 2\]"):
        LlavaUhdV2ImageProcessor(max_slices=[1, 2])


def test_arguments_of_a_wrong_type_are_named(processor, pixels):
    for key, value in {"max_slices": "6", "slice_resolution": 33.6, "max_image_pixels": "many"}.items():
        with pytest.raises(StrictDataclassError, match=key):
            processor(pixels, **{key: value})


def test_a_wrong_channel_order_is_named(processor, pixels):
    with pytest.raises(ValueError, match=r"\(200, 300, 3\) has 200 channels"):
        processor(pixels, input_data_format="channels_first")


def test_without_conversion_only_rgb_is_accepted(processor, pixels):
    assert_equal(processor(pixels, do_convert_rgb=False), processor(pixels))
    with pytest.raises(ValueError, match="its mode is L"):
        processor(Image.new("L", (9, 9)), do_convert_rgb=False)
    with pytest.raises(ValueError, match="it has 4 channels"):
        processor(np.zeros((9, 9, 4), np.uint8), do_convert_rgb=False)


def test_no_images_is_an_error(processor):
    with pytest.raises(ValueError, match="There are no images"):
        processor([])


@pytest.mark.parametrize("key", ["size", "do_resize", "max_slice_nums"])
def test_keys_without_meaning_are_named(processor, pixels, key):
    with pytest.raises(ValueError, match=f"has no `{key}`"):
        processor(pixels, **{key: True})
    with pytest.raises(ValueError, match=f"has no `{key}`"):
        LlavaUhdV2ImageProcessor(**{key: True})


@pytest.mark.parametrize("key", ["max_slices", "slice_resolution", "patch_size"])
def test_values_out_of_range_are_named(processor, pixels, key):
    with pytest.raises(ValueError, match=f"`{key}` must be at least 1, got 0"):
        processor(pixels, **{key: 0})


def test_settings_are_saved(tmp_path, pixels):
    settings = {"max_slices": 3, "slice_resolution": 112, "patch_size": 16, "image_mean": [0.5] * 3, "resample": 2}
    processor = LlavaUhdV2ImageProcessor(**settings)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert settings.items() <= saved.items()
    for loader in (LlavaUhdV2ImageProcessor, AutoImageProcessor):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is LlavaUhdV2ImageProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert_equal(loaded(pixels), processor(pixels))
    assert LlavaUhdV2ImageProcessor.from_pretrained(tmp_path, max_slices=5).max_slices == 5


def test_alpha_is_a_field_and_an_option_of_a_call(tmp_path, pixels):
    transparent = np.dstack([pixels, pixels[..., 0]])
    blended = Image.alpha_composite(Image.new("RGBA", (300, 200), "white"), Image.fromarray(transparent)).convert(
        "RGB"
    )
    dropped, white = LlavaUhdV2ImageProcessor(), LlavaUhdV2ImageProcessor(alpha="white")
    assert_equal(dropped(transparent), dropped(pixels))
    assert_equal(dropped(transparent, alpha="white"), dropped(blended))
    white.save_pretrained(tmp_path)
    assert_equal(AutoImageProcessor.from_pretrained(tmp_path)(transparent), dropped(blended))
    with pytest.raises(ValueError, match='`alpha` must be "drop" or "white", got \'black\''):
        LlavaUhdV2ImageProcessor(alpha="black")
    with pytest.raises(StrictDataclassError, match="alpha"):
        dropped(transparent, alpha="black")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("rescale_factor", value) for value in (math.nan, math.inf, 1e300)),
        *(("image_mean", [0.5, value, 0.5]) for value in (math.nan, -math.inf, 1e300)),
        *(("image_std", [0.5, 0.5, value]) for value in (math.nan, 0.0, 1e-300)),
    ],
)
def test_settings_that_make_pixels_not_finite_are_refused(field, value):
    image = Image.new("RGB", (20, 30), "white")
    for processor, options in (
        (LlavaUhdV2ImageProcessor(), {field: value}),
        (LlavaUhdV2ImageProcessor(**{field: value}), {}),
    ):
        with pytest.raises(ValueError, match=f"finite numbers of float32, but .*`{field}`="):
            processor(image, **options)


def test_an_image_like_a_thread_is_named():
    images = [Image.new("RGB", (20, 30)), Image.new("L", (300_000, 1))]
    with pytest.raises(ValueError, match="^Image 1 cannot be used: Expected an aspect ratio of at most 200000:1"):
        LlavaUhdV2ImageProcessor()(images)
