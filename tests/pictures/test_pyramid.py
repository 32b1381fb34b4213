# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan
from llava_uhd_v2_hf.model.image_processing_llava_uhd_v2 import cut_views
from llava_uhd_v2_hf.pictures.feature_maps import draw_panels, fit_palette
from llava_uhd_v2_hf.pictures.pyramid import (
    SEAM,
    SIDE,
    TALL_SIDE,
    WIDE_SIDE,
    PyramidParts,
    draw_pyramid,
    draw_views,
    join_slices,
    load_pyramid,
    normalise,
)


PHOTO = Image.effect_mandelbrot((640, 420), (-2, -1.2, 1, 1.2), 100).convert("RGB")


def run(*arguments):
    return CliRunner().invoke(app, ["visualize", *map(str, arguments)])


@pytest.fixture(scope="module")
def parts(tiny_checkpoint):
    return load_pyramid(str(tiny_checkpoint))


@pytest.fixture
def photo(tmp_path):
    PHOTO.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def views_of(image, processor, **settings):
    plan = processor.slice_plan(image.height, image.width, settings)
    return plan, [normalise(view, processor) for view in cut_views(image, plan, processor.resample)]


def test_views_are_what_the_tower_gets(parts):
    _, views = views_of(PHOTO, parts.image_processor)
    row = parts.image_processor([PHOTO], return_tensors="pt")["pixel_values"][0]
    patch, start = parts.image_processor.patch_size, 0
    for view in views:
        patches = (
            view[0].unfold(1, patch, patch).unfold(2, patch, patch).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
        )
        torch.testing.assert_close(patches, row[start : start + len(patches)], atol=1e-6, rtol=0)
        start += len(patches)


def test_levels_are_those_of_the_model(parts, tiny_checkpoint):
    """The maps that are drawn, from the features that the whole model returns."""
    model, processor = (kind.from_pretrained(tiny_checkpoint) for kind in (AutoModelForImageTextToText, AutoProcessor))
    plan, views = views_of(PHOTO, parts.image_processor)
    with torch.no_grad():
        features = model.get_image_features(
            **processor.image_processor([PHOTO], return_tensors="pt")
        ).last_hidden_state
    maps, start = [], 0
    for view in views:
        grid = [side // parts.image_processor.patch_size for side in view.shape[-2:]]
        maps.append(features[0, start : start + grid[0] * grid[1]].T.unflatten(1, grid))
        start += grid[0] * grid[1]
    palette = fit_palette(maps)

    for row, view, tower in zip(draw_views(views, parts), views, maps, strict=True):
        with torch.no_grad():
            levels = model.model.visual.projector.upsampler(tower[None], view)
        drawn = dict(row)
        names = [name for name in drawn if name.startswith(("tower", "level"))]
        assert len(names) == len(levels) == 2
        for name, level in zip(names, levels, strict=True):
            torch.testing.assert_close(drawn[name], palette.colour(level[0]), atol=1e-4, rtol=0)
    assert plan.num_slices > 1


def test_a_palette_is_shared_and_spreads_over_all_maps():
    dark, light = torch.zeros(8, 2, 2), torch.ones(8, 3, 3)
    first, second = (fit_palette([dark, light]).colour(one) for one in (dark, light))
    assert first[0].unique().tolist() == [0.0] and second[0].unique().tolist() == [1.0]


def test_slices_lie_in_their_grid():
    plan = SlicePlan((2, 3), (28, 28), (28, 42))
    colours = torch.rand(6, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    rows = [[("image", colour.expand(3, 2, 2)), ("tower 2x2", colour.expand(3, 2, 2))] for colour in colours]
    panels = join_slices(rows, plan, 300)
    assert [caption for caption, _ in panels] == ["6 slices", "tower 2x2"]
    for _, panel in panels:
        assert panel.size == (300 + 2 * SEAM, 200 + SEAM)
        for index, colour in enumerate(colours):
            row, column = divmod(index, 3)
            middle = panel.getpixel((column * (100 + SEAM) + 50, row * (100 + SEAM) + 50))
            assert middle == tuple((colour.flatten() * 255).round().int().tolist())


@pytest.mark.parametrize(
    ("size", "below"), [((60, 300), False), ((300, 60), True), ((90, 80), False), ((40, 40), False)]
)
@pytest.mark.parametrize("trained", [True, False])
def test_panels_of_wide_images_lie_below_each_other(size, below, trained, parts):
    if not trained:
        parts = load_pyramid(None)
    image = PHOTO.resize(size)
    picture = draw_pyramid(image, parts)
    if below:
        assert WIDE_SIDE < picture.width < WIDE_SIDE + 80
    else:
        side = TALL_SIDE if size[0] < size[1] / 2 else SIDE
        assert picture.width > 3.5 * side * min(size[0] / size[1], 1)


def test_captions_do_not_overlap_thin_panels():
    thin = Image.new("RGB", (10, 300))
    picture = np.asarray(draw_panels([[("level 1 96x8", thin), ("level 2 192x16", thin)]]))
    black = (picture == 0).all(axis=-1)[60]
    left, right = np.flatnonzero(black)[[0, -1]]
    assert right - left > 90  # the second begins behind the first one's caption


def test_max_slices_is_kept(parts):
    whole, cut = (draw_pyramid(PHOTO, parts, limit) for limit in (1, None))
    assert whole.height < 0.7 * cut.height
    with pytest.raises(ValueError, match="`max_slices` must be at least 1, got 0"):
        draw_pyramid(PHOTO, parts, 0)


def test_parts_of_a_loaded_model_draw_the_same(parts, tiny_checkpoint):
    model, processor = (kind.from_pretrained(tiny_checkpoint) for kind in (AutoModelForImageTextToText, AutoProcessor))
    picture = draw_pyramid(PHOTO, PyramidParts.of_model(model, processor.image_processor))
    assert np.array_equal(np.asarray(picture), np.asarray(draw_pyramid(PHOTO, parts)))


# The command


@pytest.mark.parametrize("with_model", [True, False])
def test_the_slices_are_those_of_inspect(with_model, tiny_checkpoint, photo, tmp_path):
    model = ["--model", tiny_checkpoint] if with_model else []
    result = run("--image", photo, "--what", "slices", "--out", tmp_path / "out.png", "--max-slices", 4, *model)
    assert result.exit_code == 0, result.output
    CliRunner().invoke(
        app, ["inspect", *map(str, ["--image", photo, "--out", tmp_path / "inspect.png", "--max-slices", 4, *model])]
    )
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "inspect.png").read_bytes()


def test_the_pyramid_of_a_checkpoint_is_written(tiny_checkpoint, parts, photo, tmp_path):
    result = run("--image", photo, "--out", tmp_path / "out.png", "--model", tiny_checkpoint, "--max-slices", 3)
    assert result.exit_code == 0, result.output
    expected = draw_pyramid(PHOTO, parts, 3)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(expected))


@pytest.mark.parametrize("what", ["slices", "pyramid", "attention"])
def test_a_picture_is_whole_or_not_there(what, tiny_checkpoint, photo, tmp_path, monkeypatch):
    def fail(self, path, *arguments, **options):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    question = ["--question", "What?", "--max-new-tokens", 2] if what == "attention" else []
    result = run("--image", photo, "--what", what, "--out", tmp_path / "a.png", "--model", tiny_checkpoint, *question)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("Error: No space left on device\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png"]


@pytest.mark.parametrize("what", ["slices", "pyramid"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "missing.png"], "There is no image file missing.png"),
        (["--image", "http://127.0.0.1:1/a.png"], "http://127.0.0.1:1/a.png cannot be used: downloading it failed"),
        (["--out", "picture.txt"], "can't be written as picture.txt"),
        (["--out", "nowhere/picture.png"], "There is no folder nowhere"),
        (["--model", "nowhere/at/all"], "There is no folder nowhere/at/all"),
    ],
)
def test_errors_are_one_line(what, options, message, photo, tmp_path):
    result = run("--image", photo, "--out", tmp_path / "a.png", "--what", what, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    line = result.stderr.rpartition("Error: ")[2]
    assert message in line and line.count("\n") == 1


@pytest.mark.parametrize("what", ["slices", "pyramid"])
def test_what_only_the_attention_needs_is_ignored(what, photo, tmp_path):
    for name, options in (("a.png", ["--question", "What?", "--token", 1]), ("b.png", [])):
        result = run("--image", photo, "--out", tmp_path / name, "--what", what, *options)
        assert result.exit_code == 0, result.stderr
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_another_kind_of_model_is_refused(tmp_path, photo):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model_type": "llama"}')
    result = run("--image", photo, "--out", tmp_path / "a.png", "--model", tmp_path / "other")
    assert result.exit_code == 1 and "holds a model of type `llama`" in result.stderr
