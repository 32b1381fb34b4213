# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Slice grids, view sizes, pooling grids and token layouts: plain integers, no torch.

The processor asks this module how many tokens an image takes and the model asks it where they go, so the two
cannot disagree. Every size is (height, width) and every grid (rows, columns).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


# Entries of a token layout that are no view token: the separators, looked up in the text model's embeddings.
ROW_SEPARATOR = -1
SLICE_SEPARATOR = -2

# Beyond, a strip of a few bytes would make the vision tower work for minutes, or vanish in one patch. The recordings
# of the released code go up to this aspect ratio, with views of 10,733 patches; a view of usual shape has 576.
MAX_ASPECT_RATIO = 200_000
MAX_VIEW_PATCHES = 2**14
MAX_RESOLUTION = 4096


@dataclass(frozen=True)
class SlicePlan:
    """How one image is cut into views: the slices row by row, then the overview.

    Args:
        grid: (rows, columns) of slices; (0, 0) when the image is not sliced.
        slice_size: (height, width) of every slice in pixels; (0, 0) when the image is not sliced.
        overview_size: (height, width) of the overview in pixels.
    """

    grid: tuple[int, int]
    slice_size: tuple[int, int]
    overview_size: tuple[int, int]

    @property
    def num_slices(self) -> int:
        """Number of slices; 0 when the image is not sliced."""
        return self.grid[0] * self.grid[1]

    @property
    def refined_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the enlarged image that is cut into slices; (0, 0) when not sliced."""
        return self.grid[0] * self.slice_size[0], self.grid[1] * self.slice_size[1]

    @property
    def view_sizes(self) -> list[tuple[int, int]]:
        """(height, width) in pixels of every view: the slices row by row, then the overview."""
        return [self.slice_size] * self.num_slices + [self.overview_size]

    def num_patches(self, patch_size: int) -> int:
        """Patches of all views together."""
        return sum((height // patch_size) * (width // patch_size) for height, width in self.view_sizes)

    def to_image_size(self) -> list[int]:
        """The plan as a row of `image_sizes`: grid, slice size and overview size, six integers."""
        return [*self.grid, *self.slice_size, *self.overview_size]

    @classmethod
    def from_image_size(cls, row: Sequence[int], patch_size: int) -> "SlicePlan":
        """Reads a row of `image_sizes`.

        Args:
            row: rows, columns, slice height, slice width, overview height, overview width; the sizes in pixels.
            patch_size: side of a ViT patch in pixels.

        Raises:
            ValueError: if the row is no plan: not six integers, a negative one, a size that is no whole number of
                patches, an empty overview, or slices without a grid or a size.
        """
        row = [int(number) for number in row]
        problem = None
        if len(row) != 6:
            problem = "it must have 6 numbers"
        elif min(row) < 0:
            problem = "no number may be negative"
        elif any(length % patch_size for length in row[2:]):
            problem = f"the sizes must be multiples of the patch size {patch_size}"
        elif 0 in row[4:]:
            problem = "the overview may not be empty"
        elif any(row[:4]) and 0 in row[:4]:
            problem = "rows, columns and slice size must be all zero (not sliced) or all positive"
        elif max(row[2] * row[3], row[4] * row[5]) > MAX_VIEW_PATCHES * patch_size**2:
            problem = f"a view must have at most {MAX_VIEW_PATCHES} patches"
        if problem:
            raise ValueError(
                f"The row {row} of `image_sizes` is not (rows, columns, slice height, slice width, overview height, "
                f"overview width): {problem}. Pass `image_sizes` as the image processor returns it."
            )
        return cls((row[0], row[1]), (row[2], row[3]), (row[4], row[5]))


def plan_slices(height: int, width: int, *, max_slices: int, slice_resolution: int, patch_size: int) -> SlicePlan:
    """Chooses the slice grid of an image and the sizes of its views (paper 3.4; released code).

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        max_slices: largest number of slices (paper 6; released code 7 in training, 9 in evaluation).
        slice_resolution: side in pixels of the square whose area a view takes.
        patch_size: side of a ViT patch in pixels; view sizes are multiples of it.

    Raises:
        ValueError: if one of the numbers is less than 1, `patch_size` is larger than `slice_resolution` or that than
            `MAX_RESOLUTION`, or the image is so long and thin that it has an aspect ratio
            above `MAX_ASPECT_RATIO` or a view of more than `MAX_VIEW_PATCHES`.
    """
    numbers = {
        "height": height,
        "width": width,
        "max_slices": max_slices,
        "slice_resolution": slice_resolution,
        "patch_size": patch_size,
    }
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1, got {number}.")
    if not patch_size <= slice_resolution <= MAX_RESOLUTION:
        raise ValueError(
            f"Expected `patch_size` <= `slice_resolution` <= {MAX_RESOLUTION}, got {patch_size} and "
            f"{slice_resolution}."
        )
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(
            f"Expected an aspect ratio of at most {MAX_ASPECT_RATIO}:1, got an image of {height}x{width} pixels "
            "(height x width); cut it into several images."
        )

    overview_size = _fit_to_area(height, width, slice_resolution, patch_size)
    wanted = min(math.ceil(height * width / slice_resolution**2), max_slices)
    if wanted == 1:
        return check_views(SlicePlan((0, 0), (0, 0), overview_size), patch_size)

    rows, columns = _choose_grid(height, width, wanted, max_slices)
    slice_height = max(height // rows, 1)
    slice_width = max(width // columns, 1)
    slice_size = _fit_to_area(slice_height, slice_width, slice_resolution, patch_size)
    return check_views(SlicePlan((rows, columns), slice_size, overview_size), patch_size)


def check_views(plan: SlicePlan, patch_size: int) -> SlicePlan:
    """Returns a plan whose views are not too large.

    Args:
        plan: of an image.
        patch_size: side of a ViT patch in pixels.

    Raises:
        ValueError: if a view has more than `MAX_VIEW_PATCHES`.
    """
    height, width = max(plan.view_sizes, key=math.prod)
    patches = (height // patch_size) * (width // patch_size)
    if patches > MAX_VIEW_PATCHES:
        raise ValueError(
            f"Expected views of at most {MAX_VIEW_PATCHES} patches, got one of {height}x{width} pixels (height x "
            f"width), which are {patches}; cut the image into several ones, or choose a smaller `slice_resolution`."
        )
    return plan


def _choose_grid(height: int, width: int, wanted: int, max_slices: int) -> tuple[int, int]:
    """The (rows, columns) nearest in log aspect ratio with `wanted` slices, one fewer or one more (paper 3.4)."""
    log_ratio = math.log(width / height)
    best, smallest_error = (1, 1), math.inf
    for count in (wanted - 1, wanted, wanted + 1):
        if count == 1 or count > max_slices:
            continue
        for columns in range(1, count + 1):
            if count % columns:
                continue
            rows = count // columns
            error = abs(log_ratio - math.log(columns / rows))
            if error < smallest_error:
                best, smallest_error = (rows, columns), error
    return best


def _fit_to_area(height: int, width: int, resolution: int, patch_size: int) -> tuple[int, int]:
    """Keeps the aspect ratio, takes an area of about `resolution`² and rounds down to whole patches."""
    ratio = width / height
    fitted_height = int(resolution / math.sqrt(ratio))
    fitted_width = int(fitted_height * ratio)
    return _floor_to_patch(fitted_height, patch_size), _floor_to_patch(fitted_width, patch_size)


def _floor_to_patch(length: int, patch_size: int) -> int:
    return max(length // patch_size, 1) * patch_size


def choose_pooling_grid(height: int, width: int, pooling_grids: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The pooling grid whose aspect ratio is nearest to a view's (paper eq. 3); the first one wins a tie.

    Args:
        height: height of the view, in patches (or any unit).
        width: width of the view, in the same unit.
        pooling_grids: candidates, each (rows, columns) of pooled cells in a window.
    """
    log_ratio = math.log(width / height)
    rows, columns = min(pooling_grids, key=lambda grid: abs(log_ratio - math.log(grid[1] / grid[0])))
    return rows, columns


def check_grid(grid: Sequence[int], source: str) -> tuple[int, int]:
    """Returns a grid as a tuple.

    Args:
        grid: (rows, columns).
        source: what it comes from, for the message.

    Raises:
        ValueError: if it is not two integers of at least 1.
    """
    if len(grid) != 2 or not all(isinstance(side, int) and side >= 1 for side in grid):
        raise ValueError(f"{source} must return (rows, columns), two integers of at least 1, got {grid}.")
    return grid[0], grid[1]


def selective_pooling_grid(
    height: int, width: int, level: int, candidates: Sequence[Sequence[int]]
) -> tuple[int, int]:
    """Returns [`choose_pooling_grid`] of the view, the same on every level (released code)."""
    return choose_pooling_grid(height, width, candidates)


def fixed_pooling_grid(height: int, width: int, level: int, candidates: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Returns 3x3, whatever the view and the level (paper table 6)."""
    return 3, 3


def pyramid_pooling_grid(height: int, width: int, level: int, candidates: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Returns [`choose_pooling_grid`] of the view, 2^level times as fine in both directions (paper table 6)."""
    rows, columns = choose_pooling_grid(height, width, candidates)
    return rows << level, columns << level


@lru_cache(maxsize=256)
def token_layout(
    grid: tuple[int, int], query_grid: tuple[int, int], layout: str, overview_grid: tuple[int, int] | None = None
) -> tuple[int, ...]:
    """The order in which an image's tokens are read by the text model (paper 3.4; released code).

    Args:
        grid: (rows, columns) of slices; (0, 0) when the image is not sliced.
        query_grid: (rows, columns) of tokens in a slice.
        layout: `"spatial"` weaves the slices into one 2D map, each line followed by a row separator, then a slice
            separator (the row separator where there is one column, as in the released code), then the overview.
            `"sequential"` writes slice after slice, each followed by the slice separator or, at the end of a row, by
            the row separator, then the overview.
        overview_grid: (rows, columns) of tokens in the overview; None for those of a slice.

    Returns:
        One entry a token: the index into the tokens of all views, view by view with the overview last (slice i,
        token t is i * tokens of a slice + t), or `ROW_SEPARATOR` or `SLICE_SEPARATOR`.

    Raises:
        ValueError: if the layout is neither of the two.
    """
    if layout not in ("spatial", "sequential"):
        raise ValueError(f'`layout` must be "spatial" or "sequential", got {layout!r}.')
    rows, columns = grid
    token_rows, token_columns = query_grid
    tokens_per_view = token_rows * token_columns
    order: list[int] = []
    if rows and layout == "spatial":
        for row in range(rows):
            for line in range(token_rows):
                for column in range(columns):
                    start = (row * columns + column) * tokens_per_view + line * token_columns
                    order.extend(range(start, start + token_columns))
                order.append(ROW_SEPARATOR)
        order.append(SLICE_SEPARATOR if columns > 1 else ROW_SEPARATOR)
    elif rows and layout == "sequential":
        for index in range(rows * columns):
            order.extend(range(index * tokens_per_view, (index + 1) * tokens_per_view))
            order.append(ROW_SEPARATOR if (index + 1) % columns == 0 else SLICE_SEPARATOR)
    overview = rows * columns * tokens_per_view
    order.extend(range(overview, overview + math.prod(overview_grid or query_grid)))
    return tuple(order)


def num_image_tokens(
    plan: SlicePlan, *, query_grid: Sequence[int], layout: str, overview_grid: Sequence[int] | None = None
) -> int:
    """Number of image tokens an image takes in the prompt, separators included.

    Args:
        plan: how the image is cut.
        query_grid: (rows, columns) of tokens in a slice.
        layout: `"spatial"` or `"sequential"`, see [`token_layout`].
        overview_grid: (rows, columns) of tokens in the overview; None for those of a slice.
    """
    (rows, columns), (overview_rows, overview_columns) = query_grid, overview_grid or query_grid
    return len(token_layout(plan.grid, (rows, columns), layout, (overview_rows, overview_columns)))


__all__ = [
    "MAX_ASPECT_RATIO",
    "MAX_RESOLUTION",
    "MAX_VIEW_PATCHES",
    "ROW_SEPARATOR",
    "SLICE_SEPARATOR",
    "SlicePlan",
    "check_grid",
    "check_views",
    "choose_pooling_grid",
    "fixed_pooling_grid",
    "num_image_tokens",
    "plan_slices",
    "pyramid_pooling_grid",
    "selective_pooling_grid",
    "token_layout",
]
