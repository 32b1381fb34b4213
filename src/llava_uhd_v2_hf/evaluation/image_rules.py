# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The resizing of images before they are sliced, in the released evaluation."""

from typing import Any

from PIL import Image

from ..data.pre_resize import longer_side_to
from ..model.image_loading_llava_uhd_v2 import read_rgb
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor


PRE_RESIZE_RULES = ("released-permute", "released-sequential")
SIDE, TEXT_VQA_SIDE = 1024, 1536
NOT_RESIZED = ("mme", "ai2d", "mmbench")


def evaluation_size(height: int, width: int, task: str, rule: str) -> tuple[int, int]:
    """The (height, width) that an image is resized to before it is sliced; its own where it is left alone.

    The longer side becomes 1024 pixels, 1536 in tasks with "textvqa" in their name; images of tasks with "mme", "ai2d"
    or "mmbench" are left alone. In the permute version, they are only resized if that makes them wider. (Released
    code, which looks at the name of the images' folder.)

    Args:
        height, width: of the image, in pixels.
        task: its name; capitals don't matter.
        rule: one of `PRE_RESIZE_RULES`.
    """
    if any(name in task.lower() for name in NOT_RESIZED):
        return height, width
    resized = longer_side_to(height, width, TEXT_VQA_SIDE if "textvqa" in task.lower() else SIDE)
    return resized if rule == "released-sequential" or resized[1] > width else (height, width)


def pre_resized_image(image: Any, task: str, rule: str | None, image_processor: LlavaUhdV2ImageProcessor) -> Any:
    """An image for the processor, resized by the rule of [`evaluation_size`]; as it is without a rule.

    Args:
        image: in any form that the processor takes.
        task: that it belongs to.
        rule: see there.
        image_processor: says how many pixels are decoded, and what becomes of transparency.

    Raises:
        ValueError: if there is a rule and the image can't be opened.
    """
    if rule is None:
        return image
    picture = read_rgb(image, max_pixels=image_processor.max_image_pixels, alpha=image_processor.alpha)
    height, width = evaluation_size(picture.height, picture.width, task, rule)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


__all__ = ["PRE_RESIZE_RULES", "evaluation_size", "pre_resized_image"]
