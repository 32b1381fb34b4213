# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Integer geometry: slice plans, pooling grids and token layouts of the released code."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_uhd_v2_hf.model.configuration_llava_uhd_v2 import DEFAULT_POOLING_GRIDS
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import (
    ROW_SEPARATOR,
    SLICE_SEPARATOR,
    SlicePlan,
    choose_pooling_grid,
    fixed_pooling_grid,
    num_image_tokens,
    plan_slices,
    pyramid_pooling_grid,
    selective_pooling_grid,
    token_layout,
)


SIDES = st.integers(1, 20000)
GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 4))
LAYOUTS = st.sampled_from(["spatial", "sequential"])
# ids of the separators in the recordings
RECORDED_SEPARATORS = {29892: SLICE_SEPARATOR, 13: ROW_SEPARATOR}


def read_lines(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines
    return lines


def plan_recorded(case):
    return plan_slices(
        case["height"],
        case["width"],
        max_slices=case["max_slice_nums"],
        slice_resolution=case["scale_resolution"],
        patch_size=case["patch_size"],
    )


def test_plans_are_the_recorded_ones(reference):
    for case in read_lines(reference / "slicing.jsonl"):
        plan = plan_recorded(case)
        # the recordings have (width, height) and (columns, rows)
        assert plan.overview_size == tuple(case["overview_size"][::-1]), case
        assert plan.grid == tuple((case["best_grid"] or [0, 0])[::-1]), case
        assert plan.num_slices == case["num_slices"], case
        assert [list(plan.slice_size[::-1])] * bool(plan.num_slices) == case["slice_sizes"], case
        assert plan.refined_size == tuple(case.get("refine_size", [0, 0])[::-1]), case


@pytest.mark.parametrize(("height", "width"), [(25_000_000, 1), (1, 25_000_000), (400_002, 2), (1, 200_001)])
def test_an_image_like_a_thread_is_refused(height, width):
    """A PNG of a few bytes may be one."""
    with pytest.raises(ValueError, match=rf"at most 200000:1, got an image of {height}x{width} pixels"):
        plan_slices(height, width, max_slices=6, slice_resolution=336, patch_size=14)


@given(
    height=st.integers(1, 10**7),
    width=st.integers(1, 10**7),
    resolution=st.integers(1, 5000),
    patch_size=st.integers(1, 5000),
)
def test_views_are_never_large(height, width, resolution, patch_size):
    try:
        plan = plan_slices(height, width, max_slices=9, slice_resolution=resolution, patch_size=patch_size)
    except ValueError:
        return
    for rows, columns in plan.view_sizes:
        assert rows * columns <= 2**14 * patch_size**2 and rows * columns <= max(2**26, 450 * 4096 * patch_size)
    assert SlicePlan.from_image_size(plan.to_image_size(), patch_size) == plan


@pytest.mark.parametrize(("resolution", "patch_size"), [(336, 337), (10**6, 14), (10**6, 10**6)])
def test_sizes_that_make_no_sense_are_refused(resolution, patch_size):
    with pytest.raises(ValueError, match=f"<= 4096, got {patch_size} and {resolution}"):
        plan_slices(100, 100, max_slices=6, slice_resolution=resolution, patch_size=patch_size)


def test_views_of_too_many_patches_are_refused():
    with pytest.raises(ValueError, match=r"at most 16384 patches, got one of .*, which are \d+"):
        plan_slices(100, 100, max_slices=1, slice_resolution=4096, patch_size=14)
    with pytest.raises(ValueError, match="a view must have at most 16384 patches"):
        SlicePlan.from_image_size([0, 0, 0, 0, 14, 14 * 16385], 14)


def test_separators_are_the_recorded_ones(reference):
    for case in read_lines(reference / "slicing.jsonl"):
        order = token_layout(plan_recorded(case).grid, (1, 1), "sequential")
        recorded = [RECORDED_SEPARATORS[token] for token in case["ind_tokens"]]
        assert [entry for entry in order if entry < 0] == recorded, case


def test_pooling_grids_are_the_recorded_ones(reference):
    for case in read_lines(reference / "windows.jsonl"):
        grid = choose_pooling_grid(case["feature_height"], case["feature_width"], DEFAULT_POOLING_GRIDS)
        assert list(grid) == case["pooling_grid_hw"], case


def test_rules_for_pooling_grids():
    """Examples of the paper's table 6 and of its first version's figure."""
    for level, grid in enumerate([(2, 3), (4, 6), (8, 12)]):
        assert pyramid_pooling_grid(16, 24, level, DEFAULT_POOLING_GRIDS) == grid
        assert selective_pooling_grid(16, 24, level, DEFAULT_POOLING_GRIDS) == (2, 3)
        assert fixed_pooling_grid(16, 24, level, DEFAULT_POOLING_GRIDS) == (3, 3)


def test_the_first_pooling_grid_wins_a_tie():
    assert choose_pooling_grid(24, 24, [(1, 2), (2, 1)]) == (1, 2)
    assert choose_pooling_grid(24, 24, [(2, 1), (1, 2)]) == (2, 1)


def test_spatial_layout_weaves_slices_into_lines():
    row, between = ROW_SEPARATOR, SLICE_SEPARATOR
    # views of (1, 2) tokens: the slices are [0 1] [2 3] / [4 5] [6 7], the overview is [8 9]
    assert token_layout((2, 2), (1, 2), "spatial") == (0, 1, 2, 3, row, 4, 5, 6, 7, row, between, 8, 9)
    # views of (2, 1) tokens
    assert token_layout((1, 2), (2, 1), "spatial") == (0, 2, row, 1, 3, row, between, 4, 5)
    # with one column the released code ends the slices with a row separator
    assert token_layout((2, 1), (1, 2), "spatial") == (0, 1, row, 2, 3, row, row, 4, 5)


def test_sequential_layout_writes_slice_after_slice():
    row, between = ROW_SEPARATOR, SLICE_SEPARATOR
    assert token_layout((2, 2), (1, 2), "sequential") == (
        *(0, 1, between, 2, 3, row),
        *(4, 5, between, 6, 7, row),
        *(8, 9),
    )
    assert token_layout((2, 1), (1, 2), "sequential") == (0, 1, row, 2, 3, row, 4, 5)


@pytest.mark.parametrize("layout", ["spatial", "sequential"])
def test_an_unsliced_image_is_its_overview(layout):
    assert token_layout((0, 0), (12, 12), layout) == tuple(range(144))


@given(grid=GRIDS, query_grid=GRIDS, layout=LAYOUTS)
@settings(deadline=None)
def test_a_layout_reads_every_token_once(grid, query_grid, layout):
    order = token_layout(grid, query_grid, layout)
    rows, columns = grid
    lines, line = query_grid
    assert sorted(entry for entry in order if entry >= 0) == list(range((rows * columns + 1) * lines * line))
    separators = rows * lines + 1 if layout == "spatial" else rows * columns
    assert len(order) == (rows * columns + 1) * lines * line + separators
    assert num_image_tokens(SlicePlan(grid, (14, 14), (14, 14)), query_grid=query_grid, layout=layout) == len(order)


@given(height=SIDES, width=SIDES, max_slices=st.integers(1, 64), patch_size=st.sampled_from([14, 16]))
@settings(deadline=None)
def test_plans_hold_what_they_promise(height, width, max_slices, patch_size):
    resolution = 24 * patch_size
    plan = plan_slices(height, width, max_slices=max_slices, slice_resolution=resolution, patch_size=patch_size)
    wanted = min(math.ceil(height * width / resolution**2), max_slices)
    assert plan.num_slices in {0} if wanted == 1 else {wanted - 1, wanted, wanted + 1}
    assert plan.num_slices <= max_slices
    assert len(plan.view_sizes) == plan.num_slices + 1
    for view_height, view_width in plan.view_sizes:
        assert view_height % patch_size == view_width % patch_size == 0
        assert min(view_height, view_width) >= patch_size
    assert plan.num_patches(patch_size) == sum(h * w for h, w in plan.view_sizes) // patch_size**2
    assert SlicePlan.from_image_size(plan.to_image_size(), patch_size) == plan


@given(height=SIDES, width=SIDES, max_slices=st.integers(1, 64))
@settings(deadline=None)
def test_tokens_of_an_image_follow_from_its_grid(height, width, max_slices):
    plan = plan_slices(height, width, max_slices=max_slices, slice_resolution=336, patch_size=14)
    assert plan == plan_slices(height, width, max_slices=max_slices, slice_resolution=336, patch_size=14)
    rows, columns = plan.grid
    spatial = 12 * rows * (12 * columns + 1) + 1 + 144 if rows else 144
    sequential = 145 * rows * columns + 144
    assert num_image_tokens(plan, query_grid=(12, 12), layout="spatial") == spatial
    assert num_image_tokens(plan, query_grid=(12, 12), layout="sequential") == sequential


@given(height=SIDES, width=SIDES)
@settings(deadline=None)
def test_ordinary_views_take_about_the_given_area(height, width):
    plan = plan_slices(height, width, max_slices=9, slice_resolution=336, patch_size=14)
    for view_height, view_width in set(plan.view_sizes):
        ratio = max(view_height, view_width) / min(view_height, view_width)
        if ratio <= 4:
            assert 0.8 <= view_height * view_width / 336**2 <= 1


@pytest.mark.parametrize("name", ["height", "width", "max_slices", "slice_resolution", "patch_size"])
def test_numbers_below_one_are_named(name):
    numbers = {"height": 480, "width": 640, "max_slices": 6, "slice_resolution": 336, "patch_size": 14, name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        plan_slices(numbers.pop("height"), numbers.pop("width"), **numbers)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ([0, 0, 0, 0, 336], "6 numbers"),
        ([1, 2, -14, 336, 336, 336], "negative"),
        ([1, 2, 336, 336, 336, 330], "multiples of the patch size 14"),
        ([1, 2, 336, 336, 0, 336], "overview may not be empty"),
        ([2, 0, 336, 336, 336, 336], "all zero"),
        ([0, 0, 336, 336, 336, 336], "all zero"),
        ([1, 2, 0, 0, 336, 336], "all zero"),
    ],
)
def test_rows_that_are_no_plan_are_named(row, problem):
    with pytest.raises(ValueError, match=problem) as error:
        SlicePlan.from_image_size(row, 14)
    assert str(row) in str(error.value)
