# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Reading images: every form that transformers accepts -> (height, width, 3), of 8 bits or of floats in [0, 1].

What is wrong with an image is a ValueError whose message begins with "it" or "its" ("its shape (5, 5) ..."). The
caller knows which image it is, and says so.
"""

import base64
import http.client
import os
import time
import urllib.request
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageFile, ImageOps
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format
from transformers.utils import is_torch_tensor, logging


logger = logging.get_logger(__name__)
Alpha = Literal["drop", "white"]
# Of a download, in seconds: the longest silence, and all of it.
SILENCE_TIMEOUT, DOWNLOAD_TIMEOUT = 20, 120
# Of a file or a download: more than images of the default `max_image_pixels` take, uncompressed and with 16 bits.
MAX_BYTES = 1 << 30


def as_image(entry: Any) -> Any:
    """What stands for one image -> an image of PIL, or an array or tensor of three dimensions; no pixel is decoded.

    Args:
        entry: path, http(s) URL, data URL, base64 string, image of PIL, or array or tensor, (height, width) if grey.

    Raises:
        ValueError: if it is none of these, or cannot be opened.
    """
    if isinstance(entry, (str, os.PathLike)):
        return _open_source(entry)
    if isinstance(entry, Image.Image):
        return entry
    if not isinstance(entry, np.ndarray) and not is_torch_tensor(entry):
        kind = type(entry).__name__
        raise ValueError(
            f"it is a {kind}; pass a path, a URL, a base64 string, an image of PIL, an array or a tensor."
        )
    if entry.ndim not in (2, 3):
        raise ValueError(
            f"its shape {tuple(entry.shape)} is no image's; pass (height, width), (height, width, channels), "
            "(channels, height, width), or a batch of these."
        )
    return entry[None] if entry.ndim == 2 else entry  # a first axis of 1 is read as the channels


def is_web_url(text: str) -> bool:
    """Whether a text is an http(s) URL; schemes of URLs have no case."""
    return text[:8].lower().startswith(("http://", "https://"))


def is_data_url(text: str) -> bool:
    """Whether a text is a data URL."""
    return text[:5].lower() == "data:"


def image_name(image: Any) -> str:
    """The path or URL that an image comes from, also before it is opened; an empty string if there is none."""
    if not isinstance(image, (str, os.PathLike)):
        return str(getattr(image, "filename", ""))
    name = os.fspath(image)
    return name if len(name) <= 200 else f"{name[:40]}... of {len(name)} characters"


def read_rgb(image: Any, *, max_pixels: int | None = None, alpha: Alpha = "drop") -> Image.Image:
    """Reads one image, in any form of [`as_image`], as 8-bit RGB: what the image processor cuts.

    Args:
        image: path, URL, base64 string, image of PIL of any mode, array or tensor.
        max_pixels: largest height * width; None for no limit.
        alpha: what becomes of transparency, see [`read_pixels`].

    Raises:
        ValueError: if it is not an image, or can't be used.
    """
    return Image.fromarray(to_8_bits(read_pixels(as_image(image), max_pixels=max_pixels, alpha=alpha)))


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Rounds floats in [0, 1] to uint8; returns uint8 as it is."""
    return pixels if pixels.dtype == np.uint8 else np.round(pixels * 255).astype(np.uint8)


def read_pixels(
    image: Any,
    *,
    input_data_format: str | ChannelDimension | None = None,
    convert_rgb: bool = True,
    max_pixels: int | None = None,
    alpha: Alpha = "drop",
) -> np.ndarray:
    """One image as [`as_image`] returns it -> (height, width, 3): uint8, or float in [0, 1] where it is of floats.

    Args:
        image: image of PIL, or array or tensor with 1, 3 or 4 channels.
        input_data_format: where the channels of an array are; by default, inferred from its shape.
        convert_rgb: whether to make other images RGB; else they are refused.
        max_pixels: largest height * width; checked before pixels are decoded. None for no limit.
        alpha: what becomes of transparency: `"drop"` shows the colours stored under it, `"white"` blends with white.

    Raises:
        ValueError: if the image is empty or too large, cannot be decoded, or has channels or values that are no
            picture's.
    """
    if isinstance(image, Image.Image):
        _check_size(image.height, image.width, max_pixels)
        if image.mode != "RGB" and not convert_rgb:
            raise ValueError(f"its mode is {image.mode}, not RGB; set `do_convert_rgb=True`.")
        pixels = _decode(image)
    else:
        pixels = _to_channels_last(image, input_data_format)
        if pixels.shape[-1] != 3 and not convert_rgb:
            raise ValueError(f"it has {pixels.shape[-1]} channels, not 3; set `do_convert_rgb=True`.")
    height, width, channels = pixels.shape
    _check_size(height, width, max_pixels)  # of a file again: an icon can hold more than its header says
    colours = _to_unit_or_8_bits(pixels[..., :-1] if channels in (2, 4) else pixels)
    if channels in (2, 4):
        colours = _apply_alpha(colours, pixels[..., -1:], alpha)
    return np.broadcast_to(colours, (height, width, 3))


def open_image(data: bytes, formats: Sequence[str] | None = None) -> ImageFile.ImageFile:
    """Reads the header of an image file; no pixel is decoded.

    Args:
        data: what is in the file.
        formats: PIL's names of those that may be read; None for all but EPS.

    Raises:
        ValueError: if it is empty, in no such format, or cannot be opened.
    """
    if not data:
        raise ValueError("it is empty (0 bytes); save or download it again.")
    kind = "image" if formats is None else " or ".join(formats)
    if formats is None:
        Image.init()
        formats = [name for name in Image.ID if name != "EPS"]  # a program, which PIL would let Ghostscript run
    try:
        return Image.open(BytesIO(data), formats=list(formats))
    except Image.UnidentifiedImageError as error:
        raise ValueError(
            f"PIL reads no {kind} in it ({len(data)} bytes, beginning with {data[:8]!r}); convert it to PNG or JPEG."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"PIL refuses it ({error}); if you trust it, raise `PIL.Image.MAX_IMAGE_PIXELS` and `max_image_pixels`."
        ) from error
    except Exception as error:  # what PIL's decoders raise has no common class
        raise ValueError(_describe_damage(error)) from error


def _open_source(source: str | os.PathLike[str]) -> Image.Image:
    """Reads a file and the image's header; `filename` of the image is its source."""
    image = open_image(_read_bytes(source))
    image.filename = image_name(source)
    return image


def _read_bytes(source: str | os.PathLike[str]) -> bytes:
    text = os.fspath(source)
    if is_web_url(text):
        return _download(text)
    if os.path.isfile(text):
        size = os.path.getsize(text)
        if size > MAX_BYTES:
            raise ValueError(f"it has {size} bytes, more than {MAX_BYTES}; save it compressed or smaller.")
        try:
            return Path(text).read_bytes()
        except OSError as error:
            raise ValueError(f"it cannot be read ({error}); check its permissions.") from error
    encoded = text.partition(",")[2] if is_data_url(text) else text
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError as error:
        raise ValueError("it is no file, http(s) URL or base64 of an image; check the path.") from error


def _download(url: str) -> bytes:
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT
    data = bytearray()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "llava-uhd-v2-hf"})
        with urllib.request.urlopen(request, timeout=SILENCE_TIMEOUT) as response:
            while chunk := response.read1(1 << 20):
                data += chunk
                if len(data) > MAX_BYTES or time.monotonic() > deadline:
                    raise OSError(f"more than {MAX_BYTES} bytes or {DOWNLOAD_TIMEOUT} seconds")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ValueError(f"downloading it failed ({error}); check the URL, or pass a file.") from error
    return bytes(data)


def _decode(image: Image.Image) -> np.ndarray:
    """Decodes an image of PIL and turns it upright: (height, width, 1 to 4), the last of 2 or 4 channels being alpha.

    Colours are of uint8; grey of one channel may be of uint16 or floats.
    """
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode == "La":  # grey that was multiplied by alpha
            image = image.convert("LA")
        wide = image.mode.startswith(("I", "F"))
        mode = image.mode if wide else "RGBA" if image.has_transparency_data else "RGB"
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except Exception as error:  # what PIL's decoders raise has no common class
        raise ValueError(_describe_damage(error)) from error
    if image.mode == "I":  # 32 bits, in which PIL also returns files of 16 bits
        if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
            raise ValueError(f"its mode I runs from {pixels.min()} to {pixels.max()}; scale it to 0 to 65535.")
        pixels = pixels.astype(np.uint16)
    if image.mode.startswith("I;16") and "transparency" in image.info:  # the grey that is transparent
        opacity = np.where(pixels == image.info["transparency"], 0, 65535)
        return np.stack([pixels, opacity.astype(np.uint16)], axis=-1)
    return pixels[..., None] if wide else pixels


def _apply_alpha(colours: np.ndarray, opacity: np.ndarray, alpha: Alpha) -> np.ndarray:
    """Blends (height, width, channels) with white by its opacity, (height, width, 1), or leaves the colours."""
    if alpha == "white":
        opacity = _to_unit_or_8_bits(opacity)
        if opacity.dtype != np.uint8:
            return colours * opacity + (1 - opacity)
        opacity = opacity.astype(np.uint16)
        return ((colours * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    if (colours == colours[0, 0]).all() and (opacity != opacity[0, 0]).any():
        logger.warning_once(
            "An image is of one colour when its alpha channel is dropped; what it shows is in its transparency. Set "
            '`alpha="white"` in the call or in the image processor, or `--alpha white` of a command, to blend images '
            "with white."
        )
    return colours


def _describe_damage(error: Exception) -> str:
    return f"it cannot be decoded ({type(error).__name__}: {error}); it may be cut off or damaged, save it again."


def _check_size(height: int, width: int, max_pixels: int | None) -> None:
    if height == 0 or width == 0:
        raise ValueError(f"its (height, width) is ({height}, {width}); both must be at least 1 pixel.")
    if max_pixels is not None and height * width > max_pixels:
        raise ValueError(
            f"its {height * width} pixels (height {height}, width {width}) are more than `max_image_pixels`, "
            f"{max_pixels}; make it smaller or, if you trust it, raise `max_image_pixels` (None: no limit)."
        )


def _to_channels_last(image: Any, input_data_format: str | ChannelDimension | None) -> np.ndarray:
    """An array or tensor of three dimensions -> (height, width, 1, 3 or 4)."""
    if is_torch_tensor(image):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    was_grey = image.shape[0] == 1 and image.shape[-1] not in (1, 3, 4)  # see `as_image`
    if input_data_format is None or was_grey:
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


def _to_unit_or_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Values of any type -> uint8, or floats as they are; checks their range."""
    kind = pixels.dtype.kind
    if pixels.dtype == np.uint8:
        return pixels
    if kind == "b":
        return pixels.astype(np.uint8) * 255
    if kind == "u" and pixels.dtype.itemsize == 2:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 257 * 255
    if kind not in "uif":
        raise ValueError(f"its values are of type {pixels.dtype}; pass integers from 0 to 255 or floats in [0, 1].")
    smallest, largest = pixels.min(), pixels.max()
    if kind in "ui":
        if smallest < 0 or largest > 255:
            raise ValueError(f"its integers run from {smallest} to {largest}; scale them to 0 to 255.")
        return pixels.astype(np.uint8)
    if not np.isfinite([smallest, largest]).all():
        bad = np.count_nonzero(~np.isfinite(pixels))
        raise ValueError(f"{bad} of its values are NaN or infinite; replace them.")
    if smallest < 0 or largest > 1:
        raise ValueError(
            f"its floats run from {smallest} to {largest}; scale them to [0, 1], or pass 0 to 255 as `uint8`."
        )
    return pixels
