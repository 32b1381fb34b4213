# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a recipe of VDIM pre-training says. The defaults are those of the released training."""

from dataclasses import dataclass, field
from typing import Literal

from transformers import TrainingArguments


@dataclass
class VdimData:
    """The images.

    Args:
        images: a folder (searched with its sub-folders), a .json or .jsonl list of files (names, or objects with the
            name under `column`; relative to the list's folder), or a data set of the Hub.
        split: of the data set.
        column: where a list's objects or the data set have the image.
        streaming: whether to read a data set of the Hub while training, without downloading it first. Every process
            reads its own shards.
        shuffle_buffer: images among which a stream is shuffled.
        crop_size: side of the square that the tower sees, in pixels. The shorter side of an image is resized to it,
            smaller images are enlarged, and the centre is cut out.
        resize: how: `"nearest"` (released code) or `"bicubic"`.
        normalisation: of the pixels, for the tower and the up-sampler alike: `"imagenet"` (released VDIM training),
            `"clip"` (the later stages of the released training) or `"siglip"`.
        max_unreadable: how many images may be skipped because they can't be read; one more ends the training.
    """

    images: str = ""
    split: str = "train"
    column: str = "image"
    streaming: bool = False
    shuffle_buffer: int = 1000
    crop_size: int = 336
    resize: Literal["nearest", "bicubic"] = "nearest"
    normalisation: Literal["imagenet", "clip", "siglip"] = "imagenet"
    max_unreadable: int = 100

    def __post_init__(self):
        _at_least("data", self, {"shuffle_buffer": 1, "crop_size": 1, "max_unreadable": 0})


@dataclass
class VdimLoss:
    """The multi-level reconstruction objective (paper eq. 2 and 9) and what the released training adds to it.

    Args:
        jitters: views of each image a step.
        max_pad: pixels by which an image is padded, by reflection, before a view is cut out.
        max_zoom: largest enlargement of a view; half of the views are enlarged.
        flip: whether half of the views are mirrored.
        projection_size: random directions in which features are compared; None for all channels as they are.
        uncertainty: whether a small network predicts how well each patch can be reconstructed.
        crf_weight: weight of the term that keeps features of near and like pixels alike; 0 for none.
        crf_points: random pixels of an image that this term compares.
        stop_gradient: whether a level's loss leaves the steps before its own alone.
        blur: whether the down-sampler blurs features first.
        mask_rate: share of the patches in which the down-sampler's saliency is left out, at random.
        saliency_dropout: dropout before the down-sampler's saliency.
    """

    jitters: int = 2
    max_pad: int = 30
    max_zoom: float = 2.0
    flip: bool = True
    projection_size: int | None = 30
    uncertainty: bool = True
    crf_weight: float = 0.001
    crf_points: int = 1000
    stop_gradient: bool = True
    blur: bool = True
    mask_rate: float = 0.2
    saliency_dropout: float = 0.2

    def __post_init__(self):
        _at_least("loss", self, {"jitters": 1, "max_pad": 0, "max_zoom": 1, "crf_weight": 0, "crf_points": 1})
        _at_least("loss", self, {"projection_size": 1} if self.projection_size is not None else {})
        for name in ("mask_rate", "saliency_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`loss.{name}` must be in [0, 1), got {getattr(self, name)}.")


@dataclass
class VdimUpsampler:
    """The module that is trained; see [`LlavaUhdV2ProjectorConfig`], whose fields these are.

    Args:
        steps: of up-sampling, 1 to 3; each doubles the resolution.
        kernel_size: `upsampler_kernel_size`.
        guidance_size: `upsampler_guidance_size`.
        dropout: `upsampler_dropout`.
        fixup_dropout: `fixup_dropout`.
    """

    steps: Literal[1, 2, 3] = 2
    kernel_size: int = 7
    guidance_size: int = 32
    dropout: float = 0.1
    fixup_dropout: float = 0.2


@dataclass
class VdimPictures:
    """What is drawn of the pyramid while it is trained, and at the end.

    Args:
        every: steps between two pictures; 0 for one at the end only.
        count: images that are drawn, the first of the data.
    """

    every: int = 500
    count: int = 4

    def __post_init__(self):
        _at_least("pictures", self, {"every": 0, "count": 1})


@dataclass
class VdimRecipe:
    """VDIM pre-training for one vision tower.

    Args:
        tower: folder or Hub id of a CLIP (whole, or its vision part), SigLIP or DINOv2 model.
        vision_feature_layer: index into the tower's hidden states of the one that is up-sampled.
        batch_size: images a step, of all processes together.
        optimizer: `"adam"` (paper) or `"nadam"` (released code); its learning rate is `training.learning_rate`.
        first_steps: of the training, in which the norm of the gradient is clipped to `first_max_grad_norm` (afterwards
            to `training.max_grad_norm`, if that is not 0).
        first_max_grad_norm: see `first_steps`.
        training: transformers' `TrainingArguments`. `per_device_train_batch_size` is the largest number of images that
            a process takes at once; the steps of gradient accumulation follow from it.
    """

    tower: str = "openai/clip-vit-large-patch14-336"
    vision_feature_layer: int = -2
    batch_size: int = 16
    optimizer: Literal["adam", "nadam"] = "nadam"
    first_steps: int = 10
    first_max_grad_norm: float = 1e-4
    upsampler: VdimUpsampler = field(default_factory=VdimUpsampler)
    data: VdimData = field(default_factory=VdimData)
    loss: VdimLoss = field(default_factory=VdimLoss)
    pictures: VdimPictures = field(default_factory=VdimPictures)
    training: TrainingArguments = field(default_factory=TrainingArguments)

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}.")
        if self.first_steps < 0 or self.first_max_grad_norm <= 0:
            raise ValueError(
                "`first_steps` must be at least 0 and `first_max_grad_norm` positive, got "
                f"{self.first_steps} and {self.first_max_grad_norm}."
            )
        if self.loss.max_pad >= self.data.crop_size:
            raise ValueError(
                f"`loss.max_pad`={self.loss.max_pad} must be smaller than `data.crop_size`={self.data.crop_size}."
            )
        if self.training.max_steps < 1:
            raise ValueError(f"`training.max_steps` must be at least 1, got {self.training.max_steps}.")


def _at_least(section: str, values: object, smallest: dict[str, int]) -> None:
    for name, bound in smallest.items():
        if getattr(values, name) < bound:
            raise ValueError(f"`{section}.{name}` must be at least {bound}, got {getattr(values, name)}.")
