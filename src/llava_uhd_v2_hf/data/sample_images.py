# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""An image of a sample: where it is, its size, and its picture. Nothing is decoded before it must be."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import ExifTags, Image

from ..model.image_loading_llava_uhd_v2 import Alpha, as_image, is_data_url, is_web_url, read_rgb
from ..model.image_loading_llava_uhd_v2 import open_image as read_header
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from .pre_resize import pre_resized


def locate_image(entry: Any, folder: str) -> Any:
    """What a record says of an image -> a path, a URL, the bytes of a file, or an image of PIL.

    Args:
        entry: name relative to `folder`, URL, image of PIL, or `datasets`' mapping with `bytes` and `path`.
        folder: see there.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(entry, dict):
        entry = entry.get("bytes") or entry.get("path")
    if isinstance(entry, str) and entry:
        return entry if is_url(entry) else os.path.join(folder, entry)
    if isinstance(entry, (bytes, Image.Image)):
        return entry
    raise ValueError(f"an image is {str(entry)[:60]!r}; it must be the name of a file, a URL or the bytes of a file.")


def file_name(entry: Any) -> str:
    """The name of an image in a record, with its folders; empty if it has none."""
    name = entry.get("path") if isinstance(entry, dict) else entry
    return name if isinstance(name, str) else ""


def is_url(entry: str) -> bool:
    return is_web_url(entry) or is_data_url(entry)


def is_missing(image: Any) -> bool:
    """Whether an image is a path that there is no file at."""
    return isinstance(image, str) and not is_url(image) and not os.path.isfile(image)


def file_bytes(image: Any) -> int | None:
    """Size of an image's file; None if it is not a path."""
    return os.path.getsize(image) if isinstance(image, str) and not is_url(image) else None


def open_image(image: Any) -> Image.Image:
    """What [`locate_image`] found, opened but not decoded.

    Raises:
        ValueError: if it can't be opened.
    """
    if isinstance(image, bytes):
        return read_header(image)
    return as_image(image if isinstance(image, Image.Image) or is_url(image) else Path(image))


def image_size(image: Any) -> tuple[int, int]:
    """(height, width) of an image when it is upright, from its header.

    Raises:
        ValueError: if it can't be read.
    """
    if isinstance(image, Image.Image) or (isinstance(image, str) and is_url(image)):
        return _upright_size(open_image(image))
    try:
        with Image.open(BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return _upright_size(opened)
    except Exception as error:  # what PIL's decoders raise has no common class
        shown = "" if isinstance(image, bytes) else f" {image}"
        raise ValueError(f"the image{shown} can't be read ({type(error).__name__}: {error}).") from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def resized_size(image: Any, name: str, rule: str | None, source: torch.Generator) -> tuple[int, int]:
    """(height, width) of an image after the rule of [`pre_resized`], if there is one."""
    height, width = image_size(image)
    return (height, width) if rule is None else pre_resized(height, width, name, rule, source)


def open_resized(
    image: Any, name: str, rule: str | None, source: torch.Generator, alpha: Alpha = "drop"
) -> Image.Image:
    """Opens an image; decodes and resizes it where the rule of [`pre_resized`] says so.

    Args:
        image: of [`locate_image`].
        name: of its file, which the rule looks at.
        rule: of [`pre_resized`].
        source: of what is drawn.
        alpha: what becomes of the transparency of an image that is resized.

    Raises:
        ValueError: if it can't be read.
    """
    if rule is None or (size := resized_size(image, name, rule, source)) == image_size(image):
        return open_image(image)
    picture = read_rgb(open_image(image), max_pixels=LlavaUhdV2ImageProcessor.max_image_pixels, alpha=alpha)
    return picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)


__all__ = [
    "file_bytes",
    "file_name",
    "image_size",
    "is_missing",
    "locate_image",
    "open_image",
    "open_resized",
    "resized_size",
]
