# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Samples -> a batch that the model takes, with labels."""

import copy
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence

from ..model.image_loading_llava_uhd_v2 import image_name
from ..model.processing_llava_uhd_v2 import LlavaUhdV2Processor
from .labels import IGNORED, TEMPLATE_ERRORS, chatml_ids, released_chatml_labels, template_labels
from .worker_counts import WorkerCounts


class ConversationCollator:
    """Renders, tokenises and pads conversations (on the right), cuts their images and makes the labels.

    For any data loader, and for transformers' `Trainer` with `remove_unused_columns=False`. A sample is a mapping with
    `messages`, `images` (unless they are in the messages) and `name`, which errors begin with, if it has one. A batch
    that nothing is left of is one of two tokens that are not trained on, so that distributed processes stay together.

    Args:
        processor ([`LlavaUhdV2Processor`]): with a chat template that marks what is trained on by `{% generation %}`.
        max_length: longest sample in tokens, image tokens included; text beyond it is cut, images never are. None for
            the tokenizer's `model_max_length`.
        max_slices: largest number of slices of an image; 1 for the overview alone (released pre-training); None for
            the processor's own.
        label_rule: `"template"` or `"released-chatml"`, see [`template_labels`] and [`released_chatml_labels`].
        unsupervised: what happens to a sample of which no token is trained on: `"error"` or `"drop"`.
        cut_images: what happens to a sample of which `max_length` would cut an image: `"error"` or `"drop"`.

    Attributes:
        counts ([`WorkerCounts`]): `unsupervised` and `cut_images`, samples that were dropped, also by the workers of
            this process's data loader.

    Returns (from a call) a dictionary with `input_ids`, `attention_mask` and `labels` (b, n), and `pixel_values`
    and `image_sizes` of the processor if there are images. Labels of image tokens, prompts and padding are -100.

    Raises:
        ValueError: if the chat template marks nothing; naming the sample, if it can't be rendered or an image can't be
            used; see `unsupervised`, `cut_images` and `label_rule`.
    """

    def __init__(
        self,
        processor: LlavaUhdV2Processor,
        *,
        max_length: int | None = None,
        max_slices: int | None = None,
        label_rule: Literal["template", "released-chatml"] = "template",
        unsupervised: Literal["error", "drop"] = "error",
        cut_images: Literal["error", "drop"] = "error",
    ):
        if "endgeneration" not in (processor.chat_template or ""):
            raise ValueError(
                "The processor's chat template marks nothing to train on: expected {% generation %} and "
                "{% endgeneration %} around answers; `llava-uhd-v2 assemble --chat-template FILE` puts them in."
            )
        self.max_length = max_length or min(processor.tokenizer.model_max_length, sys.maxsize)
        self.processor = copy.deepcopy(processor)
        self.processor.tokenizer.model_max_length = sys.maxsize  # texts are cut here, not refused there
        self.max_slices = processor.image_processor.max_slices if max_slices is None else max_slices
        self.label_rule, self.unsupervised, self.cut_images = label_rule, unsupervised, cut_images
        self.counts = WorkerCounts(["unsupervised", "cut_images"])
        if label_rule == "released-chatml":
            chatml_ids(processor.tokenizer)

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Samples -> a batch.

        Args:
            samples: each with `messages`, `images` and `name`, see the class.

        Returns:
            `input_ids`, `attention_mask` and `labels`, (b, n), and, if there are images, `pixel_values`,
            (i, p_max, 3 * patch * patch), and `image_sizes`, (i, 6).

        Raises:
            ValueError: naming the sample that can't be used.
        """
        names = [sample.get("name", f"sample {number} of the batch") for number, sample in enumerate(samples)]
        encoded = [self.encode(sample, name) for sample, name in zip(samples, names)]
        usable = [sample for sample in encoded if sample is not None] or [self._untrained()]
        padding = {"input_ids": self._padding_id(), "attention_mask": 0, "labels": IGNORED}
        batch = {
            key: pad_sequence([sample[key] for sample in usable], batch_first=True, padding_value=value)
            for key, value in padding.items()
        }
        with_images = [sample for sample in usable if "pixel_values" in sample]
        if with_images:
            rows = [row for sample in with_images for row in sample["pixel_values"]]
            batch["pixel_values"] = pad_sequence(rows, batch_first=True)
            batch["image_sizes"] = torch.cat([sample["image_sizes"] for sample in with_images])
        return batch

    def encode(self, sample: Mapping[str, Any], name: str) -> dict[str, torch.Tensor] | None:
        """One sample as a row of a batch, before padding; None if it is dropped.

        Args:
            sample: as of a call.
            name: of the sample, for messages.

        Returns:
            `input_ids`, `attention_mask` and `labels`, (n,), and what the processor returns for its images.

        Raises:
            ValueError: naming the sample, if it can't be used or what happens to such a sample is `"error"`.
        """
        row = self._process(sample, name)
        answers = row.pop("assistant_masks")
        image_places = (row["input_ids"] == self.processor.image_token_id).nonzero()
        if len(image_places) and image_places[-1] >= self.max_length:
            length = len(row["input_ids"])
            self._give_up(
                "cut_images",
                f"{name} has {length} tokens, {len(image_places)} of them for images, and `max_length`="
                f"{self.max_length} would cut an image; raise it, lower `max_slices` or set `cut_images`='drop'.",
            )
            return None
        row["labels"] = self._labels(row["input_ids"], answers)
        for key in ("input_ids", "attention_mask", "labels"):
            row[key] = row[key][: self.max_length]
        if (row["labels"][1:] == IGNORED).all():  # the first token is never predicted
            self._give_up(
                "unsupervised",
                f"{name} has no token that is trained on in its first {self.max_length}; raise `max_length`, or set "
                "`unsupervised`='drop'.",
            )
            return None
        return row

    def _process(self, sample: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The processor's outputs for one sample, uncut."""
        images = list(sample.get("images") or [])
        settings: dict[str, Any] = {"max_slices": self.max_slices}
        if images:
            settings["images"] = [images]
        try:
            inputs = self.processor.apply_chat_template(
                [list(sample["messages"])],
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
                return_tensors=None,  # the mask takes six times as long from tensors
                processor_kwargs=settings,
            )
        except (ValueError, *TEMPLATE_ERRORS) as error:
            shown = ", ".join(filter(None, map(image_name, images)))
            raise ValueError(f"{name} can't be used{f' ({shown})' if shown else ''}: {error}") from error
        of_images = ("pixel_values", "image_sizes")
        return {key: torch.as_tensor(value if key in of_images else value[0]) for key, value in inputs.items()}

    def _labels(self, input_ids: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        if self.label_rule == "template":
            labels = template_labels(input_ids, answers)
        else:
            labels = released_chatml_labels(input_ids, answers, self.processor.tokenizer)
        return labels.masked_fill(input_ids == self.processor.image_token_id, IGNORED)

    def _give_up(self, reason: Literal["unsupervised", "cut_images"], message: str) -> None:
        if getattr(self, reason) == "error":
            raise ValueError(message)
        self.counts.add(reason)

    def _padding_id(self) -> int:
        tokenizer = self.processor.tokenizer
        return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def _untrained(self) -> dict[str, torch.Tensor]:
        ids = torch.full((2,), self._padding_id())
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.full_like(ids, IGNORED)}


__all__ = ["ConversationCollator"]
