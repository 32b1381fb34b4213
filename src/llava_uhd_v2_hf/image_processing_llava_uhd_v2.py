# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor: pixels -> the packed patches of all views, and the plan that says where each view begins."""

from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    ImageInput,
    infer_channel_dimension_format,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType, is_torch_tensor

from .geometry_llava_uhd_v2 import SlicePlan, plan_slices


# What `ImagesKwargs` offers and an image's plan leaves no room for.
_UNSUPPORTED_KEYS = frozenset(
    {
        "crop_size",
        "data_format",
        "default_to_square",
        "do_center_crop",
        "do_pad",
        "do_resize",
        "image_seq_length",
        "pad_size",
        "size",
    }
)
# What transformers itself writes to the file of an image processor beside its fields.
_FRAMEWORK_KEYS = frozenset({"auto_map", "feature_extractor_type", "image_processor_type", "processor_class"})


class LlavaUhdV2ImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    r"""
    max_slices (`int`, *optional*, defaults to 6):
        Largest number of slices of an image (paper 6; released code 7 in training, 9 in evaluation). 1 leaves the
        overview alone.
    slice_resolution (`int`, *optional*, defaults to 336):
        Side in pixels of the square whose area a view takes.
    patch_size (`int`, *optional*, defaults to 14):
        Side in pixels of a patch of the vision tower.
    """

    max_slices: int
    slice_resolution: int
    patch_size: int


class LlavaUhdV2ImageProcessor(PilBackend):
    r"""
    Cuts images into views, an overview and up to `max_slices` slices (paper 3.4), and packs the patches of the views.

    PIL resizes the 8-bit RGB image, as when the checkpoints were trained. Images may be PIL images (the EXIF
    orientation is applied), paths, URLs, or arrays and tensors in either channel order: of integers from 0 to 255, or
    of floats in [0, 1], which are rounded to 8 bits and come out in [0, 1], with `do_rescale` or without. Grey is
    replicated, palettes are expanded and alpha is dropped, unless `do_convert_rgb=False`, which accepts RGB only.

    Args:
        max_slices (`int`, *optional*, defaults to 6):
            Largest number of slices of an image; may differ from call to call.
        slice_resolution (`int`, *optional*, defaults to 336):
            Side in pixels of the square whose area a view takes.
        patch_size (`int`, *optional*, defaults to 14):
            Side in pixels of a patch of the vision tower.
        resample (`int`, *optional*, defaults to `PIL.Image.Resampling.BICUBIC`):
            Filter of the resizing.
        do_convert_rgb (`bool`, *optional*, defaults to `True`):
            Whether to convert images to RGB.
        do_rescale (`bool`, *optional*, defaults to `True`):
            Whether to multiply the 8-bit values by `rescale_factor`.
        rescale_factor (`float`, *optional*, defaults to 1/255):
            See `do_rescale`.
        do_normalize (`bool`, *optional*, defaults to `True`):
            Whether to subtract `image_mean` and divide by `image_std`.
        image_mean (`list[float]`, *optional*):
            Mean of each RGB channel. Defaults to CLIP's.
        image_std (`list[float]`, *optional*):
            Standard deviation of each RGB channel. Defaults to CLIP's.

    Returns (from a call) a `BatchFeature` with

    - **pixel_values** -- float32 (i, p_max, 3 * patch * patch) for i images: the patches of an image, view by view
      (slices row by row, the overview last), row by row in a view, channels first in a patch; zeros after the last.
    - **image_sizes** -- int64 (i, 6): rows, columns (0, 0 when not sliced), slice height, slice width (0, 0 likewise),
      overview height, overview width; sizes in pixels.

    Raises:
        ValueError: if a key is unknown or without meaning here, or an image is empty, has channels or values that are
            no picture's; the message names the image by its index.
    """

    valid_kwargs = LlavaUhdV2ImageProcessorKwargs
    model_input_names = ["pixel_values", "image_sizes"]

    max_slices = 6
    slice_resolution = 336
    patch_size = 14
    resample = Image.Resampling.BICUBIC
    do_convert_rgb = True
    do_rescale = True
    do_normalize = True
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD

    def __init__(self, **kwargs):
        _refuse_unusable_keys(set(kwargs) - _FRAMEWORK_KEYS)
        super().__init__(**kwargs)

    def preprocess(self, images: ImageInput, **kwargs: Unpack[LlavaUhdV2ImageProcessorKwargs]) -> BatchFeature:
        _refuse_unusable_keys(set(kwargs))
        return super().preprocess(images, **kwargs)

    def slice_plan(self, height: int, width: int, images_kwargs: dict[str, Any] | None = None) -> SlicePlan:
        """How an image of this size, in pixels, is cut; `images_kwargs` override the processor's own fields."""
        settings = images_kwargs or {}
        return plan_slices(
            height,
            width,
            max_slices=settings.get("max_slices", self.max_slices),
            slice_resolution=settings.get("slice_resolution", self.slice_resolution),
            patch_size=settings.get("patch_size", self.patch_size),
        )

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict[str, Any] | None = None) -> int:
        """Patches of all views of an image of this size, in pixels: the length of its row in `pixel_values`."""
        patch_size = (images_kwargs or {}).get("patch_size", self.patch_size)
        return self.slice_plan(height, width, images_kwargs).num_patches(patch_size)

    def _prepare_image_like_inputs(self, images: ImageInput, *args, **kwargs) -> list[np.ndarray]:
        flat = self._prepare_images_structure(images)
        if len(flat) == 0:
            raise ValueError("There are no images; pass at least one, or leave `images` out.")
        prepared = []
        for index, image in enumerate(flat):
            try:
                prepared.append(self.process_image(image, **kwargs))
            except ValueError as error:
                raise ValueError(f"Image {index} cannot be used: {error}") from error
        return prepared

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs,
    ) -> np.ndarray:
        """One image in any form -> (height, width, 3): uint8, or float in [0, 1] where it came as floats."""
        if isinstance(image, Image.Image):
            image = ImageOps.exif_transpose(image)
            if image.mode != "RGB" and not do_convert_rgb:
                raise ValueError(f"its mode is {image.mode}, not RGB; set `do_convert_rgb=True`.")
            pixels = np.asarray(image.convert("RGB"))
        else:
            pixels = _to_channels_last(image, input_data_format)
            if pixels.shape[-1] != 3 and not do_convert_rgb:
                raise ValueError(f"it has {pixels.shape[-1]} channels, not 3; set `do_convert_rgb=True`.")
            pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3)) if pixels.shape[-1] == 1 else pixels[..., :3]
        return _check_pixels(pixels)

    def _preprocess(
        self,
        images: list[np.ndarray],
        *,
        max_slices: int,
        slice_resolution: int,
        patch_size: int,
        resample: int | None,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float],
        image_std: float | list[float],
        return_tensors: str | TensorType | None = None,
        **kwargs,
    ) -> BatchFeature:
        rows, image_sizes = [], []
        for image in images:
            is_float = image.dtype != np.uint8
            plan = plan_slices(
                *image.shape[:2], max_slices=max_slices, slice_resolution=slice_resolution, patch_size=patch_size
            )
            picture = Image.fromarray(np.round(image * 255).astype(np.uint8) if is_float else image)
            views = cut_views(picture, plan, resample)
            row = np.concatenate([pack_patches(np.asarray(view), patch_size) for view in views])
            # (p, 3, patch * patch): from here on only the channel matters
            row = row.reshape(len(row), 3, -1).astype(np.float32)
            if do_rescale or is_float:
                row *= rescale_factor if do_rescale else 1 / 255
            if do_normalize:
                row -= np.reshape(image_mean, (-1, 1))
                row /= np.reshape(image_std, (-1, 1))
            rows.append(row.reshape(len(row), -1))
            image_sizes.append(plan.to_image_size())

        pixel_values = np.zeros((len(rows), max(map(len, rows)), 3 * patch_size**2), dtype=np.float32)
        for padded, row in zip(pixel_values, rows, strict=True):
            padded[: len(row)] = row
        data = {"pixel_values": pixel_values, "image_sizes": np.array(image_sizes, dtype=np.int64)}
        return BatchFeature(data, tensor_type=return_tensors)


def cut_views(image: Image.Image, plan: SlicePlan, resample: int | None) -> list[Image.Image]:
    """The views of an image: the slices row by row, cut from the resized original, then the overview."""
    views = []
    if plan.num_slices:
        height, width = plan.refined_size
        refined = image.resize((width, height), resample)
        slice_height, slice_width = plan.slice_size
        for top in range(0, height, slice_height):
            for left in range(0, width, slice_width):
                views.append(refined.crop((left, top, left + slice_width, top + slice_height)))
    height, width = plan.overview_size
    return [*views, image.resize((width, height), resample)]


def pack_patches(view: np.ndarray, patch_size: int) -> np.ndarray:
    """(height, width, 3) -> (h * w, 3 * patch * patch): patches row by row, channels first in a patch."""
    height, width, channels = view.shape
    grid = view.reshape(height // patch_size, patch_size, width // patch_size, patch_size, channels)
    return grid.transpose(0, 2, 4, 1, 3).reshape(-1, channels * patch_size**2)


def _refuse_unusable_keys(keys: set[str]) -> None:
    usable = set(LlavaUhdV2ImageProcessorKwargs.__annotations__) - _UNSUPPORTED_KEYS
    if unusable := sorted(keys - usable):
        raise ValueError(
            f"LlavaUhdV2ImageProcessor has no {', '.join(f'`{key}`' for key in unusable)}; it has "
            f"{', '.join(f'`{key}`' for key in sorted(usable))}. Sizes follow from `max_slices` and "
            "`slice_resolution`."
        )


def _to_channels_last(image: Any, input_data_format: str | ChannelDimension | None) -> np.ndarray:
    """An array or tensor of three dimensions -> (height, width, 1, 3 or 4)."""
    if is_torch_tensor(image):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if input_data_format is None:
        try:
            input_data_format = infer_channel_dimension_format(image, num_channels=(1, 3, 4))
        except ValueError as error:
            raise ValueError(f"its shape {image.shape} has no axis of 1, 3 or 4 channels, first or last.") from error
    pixels = np.moveaxis(image, 0, -1) if input_data_format == ChannelDimension.FIRST else image
    if pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"its shape {image.shape} has {pixels.shape[-1]} channels, read as `{input_data_format}`; pass 1, 3 or 4."
        )
    return pixels


def _check_pixels(pixels: np.ndarray) -> np.ndarray:
    """Checks size and range; (height, width, 3) of any integers -> uint8."""
    height, width = pixels.shape[:2]
    if height == 0 or width == 0:
        raise ValueError(f"its (height, width) is ({height}, {width}); both must be at least 1 pixel.")
    smallest, largest = pixels.min(), pixels.max()
    if pixels.dtype.kind in "ui":
        if smallest < 0 or largest > 255:
            raise ValueError(f"its integers run from {smallest} to {largest}; scale them to 0 to 255.")
        return pixels.astype(np.uint8, copy=False)
    if pixels.dtype.kind != "f":
        raise ValueError(f"its values are of type {pixels.dtype}; pass integers from 0 to 255 or floats in [0, 1].")
    if not (smallest >= 0 and largest <= 1):  # also false for NaN
        raise ValueError(
            f"its floats run from {smallest} to {largest}; scale them to [0, 1], or pass 0 to 255 as `uint8`."
        )
    return pixels


__all__ = ["LlavaUhdV2ImageProcessor"]
