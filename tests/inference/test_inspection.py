# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
import dataclasses
import os

import numpy as np
import pytest
from PIL import Image, ImageColor

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ImageProcessor
from llava_uhd_v2_hf.inference.inspection import inspect_image
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import ROW_SEPARATOR, SLICE_SEPARATOR
from llava_uhd_v2_hf.pictures.canvas import (
    HEADING,
    WIDTH,
    WRITABLE_SUFFIXES,
    save_picture,
)
from llava_uhd_v2_hf.pictures.slices import (
    SWATCHES,
    draw_inspection,
    draw_slices,
    place_tokens,
)


def inspect(height, width, layout="spatial", max_slices=None, query_grid=(12, 12), slice_resolution=336):
    config = LlavaUhdV2Config(token_layout=layout, projector_config={"query_grid": list(query_grid)})
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    return inspect_image(image, LlavaUhdV2ImageProcessor(slice_resolution=slice_resolution), config, max_slices)


LAYOUTS = pytest.mark.parametrize("layout", ["spatial", "sequential"])


def test_facts():
    assert inspect(800, 1200).describe() == {
        "image": "800 x 1200 pixels (height x width)",
        "slices": "6 in 2 rows and 3 columns",
        "slice": "336 x 336 pixels, 24 x 24 patches",
        "overview": "266 x 406 pixels, 19 x 29 patches",
        "patches": "4,007",
        "tokens": "1,033 = 864 slice tokens + 24 row separators + 1 slice separator + 144 overview tokens "
        "(spatial layout)",
    }
    assert "slice" not in inspect(100, 100).describe()


@LAYOUTS
@pytest.mark.parametrize("size", [(100, 100), (800, 1200), (1200, 400), (400, 1600)])
def test_counts_add_up(layout, size):
    inspection = inspect(*size, layout)
    assert sum(inspection.count_tokens().values()) == len(inspection.order)


@LAYOUTS
@pytest.mark.parametrize("size", [(100, 100), (800, 1200), (1200, 400), (400, 1600)])
def test_every_token_has_its_place_in_the_map(layout, size):
    inspection = inspect(*size, layout, query_grid=(2, 3))
    places = place_tokens(inspection)
    assert len(places) == len(set(places)) == len(inspection.order)
    if layout == "spatial":
        assert places == sorted(places)  # as one reads a page


def test_spatial_map():
    inspection = inspect(400, 600, query_grid=(2, 2))
    assert inspection.order == (0, 1, 4, 5, ROW_SEPARATOR, 2, 3, 6, 7, ROW_SEPARATOR, SLICE_SEPARATOR, 8, 9, 10, 11)
    first_line = [(0, 0), (0, 1), (0, 3), (0, 4), (0, 6)]
    overview = [(5, 0), (5, 1), (6, 0), (6, 1)]
    assert place_tokens(inspection) == [*first_line, *((1, column) for _, column in first_line), (3, 0), *overview]


def test_sequential_map():
    inspection = inspect(400, 600, "sequential", query_grid=(2, 2))
    assert inspection.order == (0, 1, 2, 3, SLICE_SEPARATOR, 4, 5, 6, 7, ROW_SEPARATOR, 8, 9, 10, 11)
    first = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 3)]
    second = [(line, column + 5) for line, column in first]
    assert place_tokens(inspection) == [*first, *second, (3, 0), (3, 1), (4, 0), (4, 1)]


@LAYOUTS
@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [
        (1, 1, (0, 0)),
        (100, 100, (0, 0)),
        (267, 400, (2, 3)),
        (487, 344, (3, 2)),
        (400, 133, (4, 1)),
        (133, 533, (1, 5)),
        (14, 20000, (1, 24)),
        (20000, 14, (24, 1)),
        (900, 900, (8, 8)),
        (120, 8000, (1, 64)),
        (8000, 120, (64, 1)),
    ],
)
def test_any_shape_is_drawn(layout, height, width, grid):
    inspection = inspect(height, width, layout, 64 if max(grid) > 5 else None, slice_resolution=112)
    assert inspection.plan.grid == grid
    picture = draw_inspection(inspection)
    assert picture.mode == "RGB"
    assert WIDTH <= picture.width <= 1.3 * WIDTH and picture.height <= 1.2 * WIDTH
    colours = {colour for _, colour in picture.getcolors(picture.width * picture.height)}
    assert {ImageColor.getrgb(SWATCHES[kind]) for kind in inspection.count_tokens()} <= colours


def test_colours_of_the_image_are_in_the_picture():
    image = Image.new("RGB", (800, 800), "red")
    image.paste("lime", (400, 0, 800, 800))
    inspection = inspect_image(image, LlavaUhdV2ImageProcessor(), LlavaUhdV2Config(), 4)
    assert [view.getpixel((100, 100)) for view in inspection.views[:2]] == [(255, 0, 0), (0, 255, 0)]
    counts = {colour: count for count, colour in draw_inspection(inspection).getcolors(1 << 20)}
    assert counts[255, 0, 0] > 100_000 and counts[0, 255, 0] > 100_000


def test_numbers_of_slices_cover_no_pixel_of_them():
    inspection = inspect(1200, 1200, max_slices=9)
    views = [Image.new("RGB", view.size, "red") for view in inspection.views]
    numbered = np.asarray(draw_slices(dataclasses.replace(inspection, views=views), (560, 560))[0])
    red = (numbered == (255, 0, 0)).all(axis=-1)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert red[np.ix_(rows, columns)].all() and (np.diff(rows) > 1).sum() == 2
    margins = numbered[HEADING : rows[-1]][~red[HEADING : rows[-1]]]
    assert (margins < 128).any()  # the numbers


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_every_named_suffix_is_written(tmp_path, suffix):
    save_picture(Image.new("RGB", (20, 10)), tmp_path / f"slices{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"slices{suffix}"]


@pytest.mark.parametrize("name", ["slices", "slices.xyz", "slices.png.gz"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"slices.*\.png, \.jpg"):
        save_picture(Image.new("RGB", (20, 10)), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "slices.png"
    path.write_bytes(b"old")

    def fail(self, path, *args, **kwargs):
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk is full"):
        save_picture(Image.new("RGB", (20, 10)), path)
    assert os.listdir(tmp_path) == ["slices.png"] and path.read_bytes() == b"old"
