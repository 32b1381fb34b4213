# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor: pixels -> the packed patches of all views, and the plan that says where each view begins."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Literal, Union, get_args

import numpy as np
import torch  # noqa: F401  likewise
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,  # noqa: F401  a name in ImagesKwargs, which `get_type_hints` looks for here
    make_flat_list_of_images,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType

from .geometry_llava_uhd_v2 import SlicePlan, plan_slices
from .image_loading_llava_uhd_v2 import Alpha, as_image, image_name, read_pixels, to_8_bits


if TYPE_CHECKING:
    import torch

OneImage = Union[str, os.PathLike[str], Image.Image, np.ndarray, "torch.Tensor"]
Images = OneImage | Sequence[OneImage] | Sequence[Sequence[OneImage] | None]

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
        overview alone. A call takes one number for all images, or a list with one for each, flat or nested like the
        images.
    slice_resolution (`int`, *optional*, defaults to 336):
        Side in pixels of the square whose area a view takes.
    patch_size (`int`, *optional*, defaults to 14):
        Side in pixels of a patch of the vision tower.
    max_image_pixels (`int`, *optional*, defaults to 100000000):
        Largest number of pixels of an image before it is resized; None for no limit.
    alpha (`str`, *optional*, defaults to `"drop"`):
        What becomes of transparency: `"drop"` shows the colours stored under it (released code), `"white"` blends the
        image with white.
    """

    max_slices: int | list[int] | list[list[int]]
    slice_resolution: int
    patch_size: int
    max_image_pixels: int | None
    alpha: Literal["drop", "white"]


class LlavaUhdV2ImageProcessor(PilBackend):
    r"""
    Cuts images into views, an overview and up to `max_slices` slices (paper 3.4), and packs the patches of the views.

    PIL resizes the 8-bit RGB image, as when the checkpoints were trained. Images may be PIL images of any mode (the
    EXIF orientation is applied), paths, URLs, base64 strings, or arrays and tensors in either channel order; alone,
    in a list, or in a list for each text. Integers run from 0 to 255 (unsigned ones of 16 bits, and PIL's modes of 16
    and 32 bits, from 0 to 65535) and floats from 0 to 1: floats are rounded to 8 bits and come out in [0, 1], with
    `do_rescale` or without. Grey is replicated, palettes are expanded and `alpha` is applied, unless
    `do_convert_rgb=False`, which accepts RGB only.

    Args:
        max_slices (`int`, *optional*, defaults to 6):
            Largest number of slices of an image; may differ from call to call and from image to image.
        slice_resolution (`int`, *optional*, defaults to 336):
            Side in pixels of the square whose area a view takes.
        patch_size (`int`, *optional*, defaults to 14):
            Side in pixels of a patch of the vision tower.
        max_image_pixels (`int`, *optional*, defaults to 100000000):
            Largest number of pixels of an image before it is resized, against files that are small and decode to
            gigabytes. The default is 286 MiB of RGB, the image of 10000 x 10000 pixels with which vLLM measures its
            memory. None for no limit but PIL's own, twice `PIL.Image.MAX_IMAGE_PIXELS`.
        alpha (`str`, *optional*, defaults to `"drop"`):
            What becomes of transparency: `"drop"` shows the colours stored under it, as the released code does;
            `"white"` blends the image with white. A warning says once when dropping leaves a single colour.
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
        ValueError: if a key is unknown or without meaning here, a number is out of range, or an image cannot be used;
            the message names the image by its index, counted over the batch, and its file or URL if it has one.
    """

    valid_kwargs = LlavaUhdV2ImageProcessorKwargs
    model_input_names = ["pixel_values", "image_sizes"]

    max_slices = 6
    slice_resolution = 336
    patch_size = 14
    max_image_pixels = 100_000_000
    alpha: Alpha = "drop"
    resample = Image.Resampling.BICUBIC
    do_convert_rgb = True
    do_rescale = True
    do_normalize = True
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD

    def __init__(self, **kwargs: Unpack[LlavaUhdV2ImageProcessorKwargs]):
        _refuse_unusable_keys(set(kwargs) - _FRAMEWORK_KEYS)
        super().__init__(**kwargs)
        if "max_image_pixels" in kwargs:  # transformers takes None for "the default"
            self.max_image_pixels = kwargs["max_image_pixels"]
        if isinstance(self.max_slices, list):
            raise ValueError(
                f"`max_slices` of an image processor is one number, got {self.max_slices}; pass a list in the call."
            )
        if self.alpha not in get_args(Alpha):
            raise ValueError(f'`alpha` must be "drop" or "white", got {self.alpha!r}.')

    def __call__(self, images: Images, **kwargs: Unpack[LlavaUhdV2ImageProcessorKwargs]) -> BatchFeature:
        """As [`~LlavaUhdV2ImageProcessor.preprocess`]."""
        return self.preprocess(images, **kwargs)

    def preprocess(self, images: Images, **kwargs: Unpack[LlavaUhdV2ImageProcessorKwargs]) -> BatchFeature:
        """Cuts images into views and packs their patches.

        Args:
            images: one image, a list, or a list for each text, in any form that the class names.
            kwargs: what is different from the processor's own fields, for this call; `return_tensors`, `"pt"` or
                `"np"`; and `input_data_format`, where the channels of arrays are, if not inferred from their shapes.

        Returns:
            `pixel_values`, (i, p_max, 3 * patch * patch), and `image_sizes`, (i, 6): see the class.

        Raises:
            ValueError: if a key is unknown or without meaning here, a number is out of range, or an image cannot be
                used.
        """
        _refuse_unusable_keys(set(kwargs))
        return super().preprocess(images, **kwargs)

    def fetch_images(self, images: Any) -> Any:
        """Opens paths, URLs and base64 strings, and makes every image one of PIL or an array of three dimensions.

        Args:
            images: one image, a batch in an array of four dimensions, a list of images, or a list of lists.

        Raises:
            ValueError: naming the index of an image that is none or cannot be opened; or if lists and images are
                mixed, or nested more deeply.
        """
        index = count()

        def fetch(entry: Any) -> Any:
            if isinstance(entry, (list, tuple)) or getattr(entry, "ndim", None) == 4:
                return [fetch(part) for part in entry]
            with _naming_image(next(index), entry):
                return as_image(entry)

        fetched = fetch(images)
        if isinstance(fetched, list):
            samples = [entry for entry in fetched if isinstance(entry, list)]
            if len(samples) not in (0, len(fetched)) or any(isinstance(image, list) for image in chain(*samples)):
                raise ValueError("`images` mixes images and lists; pass one image, a list, or a list for each text.")
        return fetched

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

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        max_image_pixels: int | None = None,
        alpha: Alpha = "drop",
        **kwargs: object,
    ) -> np.ndarray:
        """One fetched image -> (height, width, 3): uint8, or float in [0, 1] where it came as floats."""
        return read_pixels(
            image,
            input_data_format=input_data_format,
            convert_rgb=bool(do_convert_rgb),
            max_pixels=max_image_pixels,
            alpha=alpha,
        )

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        *,
        max_slices: int | list[int] | list[list[int]],
        patch_size: int,
        return_tensors: str | TensorType | None = None,
        **kwargs,
    ) -> BatchFeature:
        images = self.fetch_images(images)
        flat = make_flat_list_of_images(images)
        if len(flat) == 0:
            raise ValueError("There are no images; pass at least one, or leave `images` out.")
        nested = isinstance(images, list) and isinstance(images[0], list)
        limits = spread_max_slices(max_slices, [len(sample) for sample in images] if nested else len(flat))

        views, values, plans = [], [], []
        for index, (image, limit) in enumerate(zip(flat, limits, strict=True)):
            with _naming_image(index, image):
                pixels = self.process_image(image, **kwargs)
                height, width, _ = pixels.shape
                plan = self.slice_plan(height, width, {**kwargs, "max_slices": limit, "patch_size": patch_size})
            views.append(cut_views(Image.fromarray(to_8_bits(pixels)), plan, kwargs["resample"]))
            values.append(_values_of_bytes(pixels.dtype != np.uint8, **kwargs))
            plans.append(plan)

        length = max(plan.num_patches(patch_size) for plan in plans)
        pixel_values = np.zeros((len(plans), length, 3 * patch_size**2), dtype=np.float32)
        for row, image_views, image_values in zip(pixel_values, views, values, strict=True):
            _pack_views(image_views, image_values, patch_size, row)
        image_sizes = [plan.to_image_size() for plan in plans]
        data = {"pixel_values": pixel_values, "image_sizes": np.array(image_sizes, dtype=np.int64)}
        return BatchFeature(data, tensor_type=return_tensors)


def spread_max_slices(max_slices: int | list[int] | list[list[int]], num_images: int | list[int]) -> list[int]:
    """The `max_slices` of every image of a batch.

    Args:
        max_slices: one for all images, or a list with one for each, flat or nested.
        num_images: number of images, or a list with the number of each text.

    Raises:
        ValueError: if a list has another number of entries than there are images, in all or for a text.
    """
    total = num_images if isinstance(num_images, int) else sum(num_images)
    if isinstance(max_slices, int):
        return [max_slices] * total
    flat: list[int] = []
    lengths: list[int] = []  # of a nested list
    for entry in max_slices:
        if isinstance(entry, list):
            flat += entry
            lengths.append(len(entry))
        else:
            flat.append(entry)
    if len(flat) != total or (lengths and isinstance(num_images, list) and lengths != num_images):
        raise ValueError(
            f"`max_slices` has {lengths or len(flat)} entries and there are {num_images} images; pass one number for "
            "all images, or one for each, in a flat list or nested like `images`."
        )
    return flat


@contextmanager
def _naming_image(index: int, image: Any) -> Iterator[None]:
    """Puts in front of a ValueError which image it is about."""
    try:
        yield
    except ValueError as error:
        name = image_name(image)
        raise ValueError(f"Image {index}{f' ({name})' if name else ''} cannot be used: {error}") from error


def _values_of_bytes(
    is_float: bool,
    *,
    do_rescale: bool,
    rescale_factor: float,
    do_normalize: bool,
    image_mean: float | list[float],
    image_std: float | list[float],
    **kwargs,
) -> np.ndarray:
    """What becomes of the 256 values of each channel: (3, 256).

    Args:
        is_float: whether the image came as floats in [0, 1], which it then becomes again without `do_rescale` too.
        do_rescale, rescale_factor, do_normalize, image_mean, image_std: as of the processor.

    Raises:
        ValueError: if one is not finite, as with a standard deviation of 0.
    """
    values = np.tile(np.arange(256, dtype=np.float32), (3, 1))
    with np.errstate(all="ignore"):
        if do_rescale or is_float:
            values *= rescale_factor if do_rescale else 1 / 255
        if do_normalize:
            values -= np.reshape(image_mean, (-1, 1))
            values /= np.reshape(image_std, (-1, 1))
    if not np.isfinite(values).all():
        raise ValueError(
            f"Expected pixel values that are finite numbers of float32, but `rescale_factor`={rescale_factor}, "
            f"`image_mean`={image_mean} and `image_std`={image_std} make others; correct them."
        )
    return values


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


def _pack_views(views: list[Image.Image], values: np.ndarray, patch_size: int, row: np.ndarray) -> None:
    """Writes the patches of the views, row by row and channels first, to (p_max, 3 * patch * patch)."""
    start = 0
    for view in views:
        rows, columns = view.height // patch_size, view.width // patch_size
        patches = row[start : start + rows * columns].reshape(rows, columns, 3, patch_size, patch_size)
        for channel, band in enumerate(view.split()):
            pixels = values[channel].take(np.asarray(band))
            patches[:, :, channel] = pixels.reshape(rows, patch_size, columns, patch_size).swapaxes(1, 2)
        start += rows * columns


def _refuse_unusable_keys(keys: set[str]) -> None:
    usable = set(LlavaUhdV2ImageProcessorKwargs.__annotations__) - _UNSUPPORTED_KEYS
    if unusable := sorted(keys - usable):
        raise ValueError(
            f"LlavaUhdV2ImageProcessor has no {', '.join(f'`{key}`' for key in unusable)}; it has "
            f"{', '.join(f'`{key}`' for key in sorted(usable))}. Sizes follow from `max_slices` and "
            "`slice_resolution`."
        )


__all__ = ["LlavaUhdV2ImageProcessor", "LlavaUhdV2ImageProcessorKwargs"]
