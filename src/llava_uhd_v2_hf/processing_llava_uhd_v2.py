# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Processor: text and images -> model inputs, each `<image>` widened to the image's number of tokens."""

from typing import Any

import numpy as np
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessorMixin

from .geometry_llava_uhd_v2 import SlicePlan, num_image_tokens
from .image_processing_llava_uhd_v2 import spread_max_slices


class LlavaUhdV2Processor(ProcessorMixin):
    r"""
    Puts the tokenizer and the image processor of LLaVA-UHD v2 together.

    A call takes `images` (one, a flat list, or a list for each text) and `text` with an `<image>` for each of them,
    and returns the tokenizer's and the image processor's outputs. An `<image>` becomes as many image tokens as its
    image has tokens and separators.

    Args:
        image_processor ([`LlavaUhdV2ImageProcessor`]):
            Cuts images into views.
        tokenizer (`PreTrainedTokenizerBase`):
            The text model's tokenizer, with the image token among its special tokens.
        query_grid (`tuple[int, int]`, *optional*, defaults to `(12, 12)`):
            (rows, columns) of tokens in a view; the `query_grid` of the model's `projector_config`.
        token_layout (`str`, *optional*, defaults to `"spatial"`):
            Order of an image's tokens, `"spatial"` or `"sequential"`; the `token_layout` of the model's config.
        image_token (`str`, *optional*, defaults to `"<image>"`):
            The mark of an image in a prompt, and the token that stands for one image token (or separator).
        image_suffix (`str`, *optional*, defaults to `""`):
            Text put between an image and text that follows it. The released code tokenises the pieces of text between
            images apart, so that a tokenizer that begins every text with a space (sentencepiece: Vicuna) does it after
            an image too: `" "` repeats that. Byte-level tokenizers (Qwen2) need `""`.
        chat_template (`str`, *optional*):
            Template of a conversation, in Jinja.

    Raises:
        ValueError: if a field is out of range, the tokenizer has no image token, texts and images do not match,
            an image cannot be used, truncation would cut an image, or a text is longer than the tokenizer's
            `model_max_length` and may not be cut.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        query_grid=(12, 12),
        token_layout="spatial",
        image_token="<image>",
        image_suffix="",
        chat_template=None,
    ):
        if len(query_grid) != 2 or not all(isinstance(side, int) and side >= 1 for side in query_grid):
            raise ValueError(f"`query_grid` must be (rows, columns) of at least 1, got {query_grid}.")
        if token_layout not in ("spatial", "sequential"):
            raise ValueError(f'`token_layout` must be "spatial" or "sequential", got {token_layout!r}.')
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.query_grid = list(query_grid)
        self.token_layout = token_layout
        self.image_token = image_token
        self.image_suffix = image_suffix
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        if self.image_token_id in (None, tokenizer.unk_token_id):
            raise ValueError(
                f"The tokenizer has no token `{image_token}`. Add it with `tokenizer.add_tokens("
                f'[AddedToken("{image_token}", special=True, normalized=False)], special_tokens=True)`, and take its '
                "id as the model's `image_token_id`."
            )

    def prepare_inputs_layout(self, images=None, text=None, **kwargs):
        images, text, *others = super().prepare_inputs_layout(images=images, text=text, **kwargs)
        if isinstance(images, list) and all(isinstance(sample, list) and not sample for sample in images):
            images = None  # [] or [[], []]: texts without images
        return images, text, *others

    def validate_inputs(self, images=None, text=None, **kwargs):
        if text is not None:
            self._check_image_counts(images, text)
        super().validate_inputs(images=images, text=text, **kwargs)

    def _check_image_counts(self, images: Any, text: list[str]) -> None:
        marks = [sample.count(self.image_token) for sample in text]
        if isinstance(images, list) and any(isinstance(sample, list) for sample in images):
            counts: Any = [len(sample) for sample in images]
            matching = marks == counts
        else:
            counts = 0 if images is None else len(make_flat_list_of_images(images))
            matching = sum(marks) == counts
        if not matching:
            raise ValueError(
                "The number of image tokens in the prompts should be the same as the number of images: the texts have "
                f"{marks} `{self.image_token}` marks and there are {counts} images (a list counts text by text)."
            )

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        patch_size = kwargs.get("patch_size", self.image_processor.patch_size)
        plan = SlicePlan.from_image_size(image_inputs["image_sizes"][image_idx], patch_size)
        return self.image_token * num_image_tokens(plan, query_grid=self.query_grid, layout=self.token_layout)

    def get_text_with_replacements(self, text, images_replacements=(), *args, **kwargs):
        if self.image_suffix and images_replacements:
            # A first pass says where the images are; those with text behind them get the suffix.
            found = super().get_text_with_replacements(list(text), images_replacements)[1]
            behind = [sample[mark["span"][1] :] for sample, marks in zip(text, found, strict=True) for mark in marks]
            images_replacements = [
                tokens if rest.startswith(self.image_token) or not rest else tokens + self.image_suffix
                for tokens, rest in zip(images_replacements, behind, strict=True)
            ]
        return super().get_text_with_replacements(text, images_replacements, *args, **kwargs)

    def _check_special_mm_tokens(self, text, text_inputs, modalities):
        super()._check_special_mm_tokens(text, text_inputs, modalities)  # whether truncation cut an image
        limit = self.tokenizer.model_max_length
        input_ids = [np.asarray(ids) for ids in text_inputs["input_ids"]]
        masks = text_inputs.get("attention_mask", map(np.ones_like, input_ids))
        for index, (ids, mask) in enumerate(zip(input_ids, masks, strict=True)):
            length = np.asarray(mask).sum()
            if length > limit:
                of_images = np.count_nonzero(ids == self.image_token_id)
                raise ValueError(
                    f"Text {index} has {length} tokens, {of_images} of them for images; the tokenizer's "
                    f"`model_max_length` is {limit}. Pass fewer images, a smaller `max_slices` or less text, let "
                    "`truncation=True` cut the text's end, or set `processor.tokenizer.model_max_length` if the model "
                    "reads more."
                )

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs) -> MultiModalData:
        """Number of image tokens and of rows in `pixel_values` for images of the given (height, width) in pixels."""
        if image_sizes is None:
            return MultiModalData()
        images_kwargs = self._merge_kwargs(self.valid_processor_kwargs, **kwargs)["images_kwargs"]
        max_slices = images_kwargs.pop("max_slices", self.image_processor.max_slices)
        limits = spread_max_slices(max_slices, len(image_sizes))
        plans = [
            self.image_processor.slice_plan(height, width, {**images_kwargs, "max_slices": limit})
            for (height, width), limit in zip(image_sizes, limits, strict=True)
        ]
        return MultiModalData(
            num_image_tokens=[
                num_image_tokens(plan, query_grid=self.query_grid, layout=self.token_layout) for plan in plans
            ],
            num_image_patches=[1] * len(plans),
        )


__all__ = ["LlavaUhdV2Processor"]
