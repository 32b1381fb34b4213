# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Processor: text and images -> model inputs, each `<image>` widened to the image's number of tokens."""

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch  # noqa: F401  likewise
from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.image_utils import (
    PILImageResampling,  # noqa: F401  a name in ImagesKwargs, which `get_type_hints` looks for here
    make_flat_list_of_images,
)
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin, TextKwargs, Unpack
from transformers.utils import is_torch_tensor

from .configuration_llava_uhd_v2 import LlavaUhdV2ProjectorConfig
from .geometry_llava_uhd_v2 import SlicePlan, num_image_tokens
from .image_processing_llava_uhd_v2 import (
    Images,
    LlavaUhdV2ImageProcessor,
    LlavaUhdV2ImageProcessorKwargs,
    spread_max_slices,
)


class LlavaUhdV2ProcessorCallKwargs(TextKwargs, LlavaUhdV2ImageProcessorKwargs, ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """What a call of the processor takes by name: options of the tokenizer's call and of the image processor."""


class LlavaUhdV2Processor(ProcessorMixin):
    r"""
    Puts the tokenizer and the image processor of LLaVA-UHD v2 together.

    A call takes `images` (one, a flat list, or a list or None for each text) and `text` with an `<image>` for each of
    them, and returns the tokenizer's and the image processor's outputs. An `<image>` becomes as many image tokens as
    its image has tokens and separators.

    Batches are padded on the left, for generation, whatever the tokenizer's files say: the processor sets the
    tokenizer's `padding_side`. `padding_side="right"` in a call or in `from_pretrained`, and
    `processor.tokenizer.padding_side = "right"`, override it.

    Args:
        image_processor ([`LlavaUhdV2ImageProcessor`]):
            Cuts images into views.
        tokenizer (`PreTrainedTokenizerBase`):
            The text model's tokenizer, with the image token among its special tokens.
        query_grid (`tuple[int, int]`, *optional*, defaults to `(12, 12)`):
            (rows, columns) of queries in a view; the `query_grid` of the model's `projector_config`.
        projector_config (`dict`, *optional*):
            Other fields of the model's `projector_config` that say how many tokens a view has, such as
            `projector_type`; the defaults are those of [`LlavaUhdV2ProjectorConfig`].
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

    image_processor: LlavaUhdV2ImageProcessor
    tokenizer: PreTrainedTokenizerBase
    chat_images: Images | None = None

    def __init__(
        self,
        image_processor: LlavaUhdV2ImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        query_grid: Sequence[int] = (12, 12),
        token_layout: Literal["spatial", "sequential"] = "spatial",
        image_token: str = "<image>",
        image_suffix: str = "",
        chat_template: str | None = None,
        projector_config: dict[str, Any] | None = None,
    ):
        self.projector_config = projector_config
        self.projector = LlavaUhdV2ProjectorConfig(**{**(projector_config or {}), "query_grid": query_grid})
        if token_layout not in ("spatial", "sequential"):
            raise ValueError(f'`token_layout` must be "spatial" or "sequential", got {token_layout!r}.')
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        tokenizer.padding_side = "left"
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

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> "LlavaUhdV2Processor":
        """Loads a processor; its batches are padded on the left, or where `padding_side` says.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            kwargs: handed to `ProcessorMixin.from_pretrained`: `revision`, `token`, options of the tokenizer and
                fields of the image processor.
        """
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        processor.tokenizer.padding_side = kwargs.get("padding_side", "left")
        return processor

    def __call__(
        self,
        images: Images | None = None,
        text: str | list[str] | None = None,
        **kwargs: Unpack[LlavaUhdV2ProcessorCallKwargs],
    ) -> BatchFeature:
        """Texts and their images -> model inputs.

        Args:
            images: one image, a flat list, or a list or None for each text; in any form that
                [`LlavaUhdV2ImageProcessor`] takes.
            text: one text or several, with an `<image>` for each image.
            kwargs: options of the tokenizer's call (`padding`, `truncation`, `max_length` in tokens, `return_tensors`)
                and fields of the image processor (`max_slices`, ...), for this call.

        Returns:
            `input_ids` and `attention_mask`, (b, n) with padding and `return_tensors`; with images also
            `pixel_values`, (i, p_max, 3 * patch * patch), and `image_sizes`, (i, 6), for the i images of all texts.

        Raises:
            ValueError: if texts and images do not match, an image cannot be used, truncation would cut an image, or a
                text is too long; see the class.
        """
        self._check_kinds(images, text)
        given = {**kwargs, **kwargs.get("text_kwargs", {})}
        if "add_special_tokens" not in given and self.begins_with_bos(text):
            kwargs["add_special_tokens"] = False
        return super().__call__(images=images, text=text, **kwargs)

    def _check_kinds(self, images: Any, text: Any) -> None:
        """Refuses texts among the images, and what is no text among the texts.

        Raises:
            ValueError: naming it, and the order of the arguments where they are swapped.
        """
        texts = [] if text is None else _as_list(text)
        strings = [entry for entry in _as_list(images) if isinstance(entry, str)]
        if any(self.image_token in entry for entry in strings) or (strings and any(map(_is_image, texts))):
            raise ValueError(
                f"Expected images as `images`, got the text {strings[0][:60]!r}; images come first: "
                "`processor(images=..., text=...)`."
            )
        if text is not None and not texts:
            raise ValueError("`text` is an empty list; pass at least one text.")
        for index, entry in enumerate(texts):
            if not isinstance(entry, str):
                rest = "; pass images as `images`." if _is_image(entry) else "."
                raise ValueError(
                    f"Text {index} is a {type(entry).__name__}; `text` must be a string or a list of them{rest}"
                )

    def begins_with_bos(self, text: str | list[str] | None) -> bool:
        """Whether a text, or each of several, begins with the BOS token, as chat templates write it."""
        texts, bos = text if isinstance(text, list) else [text], self.tokenizer.bos_token
        return bool(bos and texts) and all(isinstance(sample, str) and sample.startswith(bos) for sample in texts)

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        chat_template: str | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Renders a conversation, or several, as a prompt; with `tokenize=True` as model inputs.

        Special tokens are those that the template writes, as in the tokenizer's own `apply_chat_template`.

        Args:
            conversation: messages of `role` and `content`, a string or a list of text and image entries.
            chat_template: instead of the processor's own.
            processor_kwargs: of the call; `images` may be among them, for messages that only mark their places.
            kwargs: handed to transformers' `ProcessorMixin.apply_chat_template`: `add_generation_prompt`, `tokenize`,
                `return_dict`, `return_tensors`, `return_assistant_tokens_mask`, and variables of the template.

        Returns:
            The prompt, or a list of them; with `tokenize=True` and `return_dict=True` what a call returns.
        """
        # before 5.24, transformers refuses images that are not in the messages
        processor, settings = copy.copy(self), {"add_special_tokens": False, **(processor_kwargs or {})}
        processor.chat_images = settings.pop("images", None)
        return ProcessorMixin.apply_chat_template(
            processor, conversation, chat_template, processor_kwargs=settings, **kwargs
        )

    def prepare_inputs_layout(self, images: Images | None = None, text: str | list[str] | None = None, **kwargs):
        """Texts in a list and images opened, as transformers' `ProcessorMixin` works on them.

        Args:
            images: as of a call.
            text: as of a call.
            kwargs: handed to `ProcessorMixin`.
        """
        images = self.chat_images if images is None else images
        if isinstance(images, list) and all(sample is None or isinstance(sample, list) for sample in images):
            images = [sample or [] for sample in images] if any(images) else None
        return super().prepare_inputs_layout(images=images, text=text, **kwargs)

    def validate_inputs(self, images: Images | None = None, text: list[str] | None = None, **kwargs):
        """Refuses a call whose texts and images do not match.

        Args:
            images: of [`~LlavaUhdV2Processor.prepare_inputs_layout`].
            text: likewise.
            kwargs: handed to `ProcessorMixin`.

        Raises:
            ValueError: if the texts mark more or fewer images than there are, there is neither text nor image, or
                there are videos or audio.
        """
        for kind in ("videos", "audio"):
            if kwargs.get(kind) is not None:
                raise ValueError(f"The model reads text and images; leave `{kind}` out, or pass frames as images.")
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
        """What an `<image>` becomes in the prompt: the image token, as often as the image has tokens and separators.

        Args:
            image_inputs: the image processor's outputs.
            image_idx: number of the image among them.
            kwargs: fields of the image processor for this call; only `patch_size`, in pixels, matters here.
        """
        patch_size = kwargs.get("patch_size", self.image_processor.patch_size)
        plan = SlicePlan.from_image_size(image_inputs["image_sizes"][image_idx], patch_size)
        return self.image_token * self.count_tokens(plan, patch_size)

    def count_tokens(self, plan: SlicePlan, patch_size: int) -> int:
        """Returns the number of image tokens of an image, separators included.

        Args:
            plan: how the image is cut.
            patch_size: side in pixels of a patch of the vision tower.
        """
        grid, overview = self.projector.token_grids(plan, patch_size)
        return num_image_tokens(plan, query_grid=grid, overview_grid=overview, layout=self.token_layout)

    def get_text_with_replacements(
        self,
        text: list[str],
        images_replacements: Sequence[str] = (),
        videos_replacements: Sequence[str] = (),
        audio_replacements: Sequence[str] = (),
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """Puts the image tokens, and `image_suffix` where text follows, in the places of the images.

        Args:
            text: the prompts, with `<image>`.
            images_replacements: what each `<image>` becomes, in the order of the prompts.
            videos_replacements: handed to `ProcessorMixin`.
            audio_replacements: likewise.

        Returns:
            The prompts, and for each of them what was replaced where.
        """
        if self.image_suffix and images_replacements:
            # A first pass says where the images are; those with text behind them get the suffix.
            found = super().get_text_with_replacements(list(text), images_replacements)[1]
            behind = [sample[mark["span"][1] :] for sample, marks in zip(text, found, strict=True) for mark in marks]
            images_replacements = [
                tokens if rest.startswith(self.image_token) or not rest else tokens + self.image_suffix
                for tokens, rest in zip(images_replacements, behind, strict=True)
            ]
        return super().get_text_with_replacements(text, images_replacements, videos_replacements, audio_replacements)

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
        patch_size = images_kwargs.get("patch_size", self.image_processor.patch_size)
        max_slices = images_kwargs.pop("max_slices", self.image_processor.max_slices)
        limits = spread_max_slices(max_slices, len(image_sizes))
        plans = [
            self.image_processor.slice_plan(height, width, {**images_kwargs, "max_slices": limit})
            for (height, width), limit in zip(image_sizes, limits, strict=True)
        ]
        return MultiModalData(
            num_image_tokens=[self.count_tokens(plan, patch_size) for plan in plans],
            num_image_patches=[1] * len(plans),
        )


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def _is_image(entry: Any) -> bool:
    return isinstance(entry, (Image.Image, np.ndarray)) or is_torch_tensor(entry)


__all__ = ["LlavaUhdV2Processor", "LlavaUhdV2ProcessorCallKwargs"]
