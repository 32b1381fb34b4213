# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Where a model looks while it answers: the language model's attention to the tokens of the image.

Shape letters: m tokens of the answer, n tokens of the image with its separators, v views, r c tokens of a view.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from transformers import Cache, PreTrainedModel

from ..inference.chat import Chat
from ..inference.inspection import Inspection, Regions
from ..model.modeling_llava_uhd_v2 import CACHE_NAME


STEPS_AT_A_TIME = 64  # the weights of more take much memory


@dataclass(frozen=True)
class AnswerAttention:
    """The attention of every step of an answer, mean over layers and heads.

    Args:
        pieces: (m,), the text of each token; together they are the answer.
        weights: (m, n) float32, the weight that the step which chose a token gives to each token of the image. All
            weights of a step, those of the text included, add up to 1.
    """

    pieces: list[str]
    weights: torch.Tensor

    def find_tokens(self, wanted: str | None) -> list[int]:
        """The tokens, counted from 0, that make up a part of the answer.

        Args:
            wanted: the number of a token, counted from 1, or text, which is looked for from the beginning; None for
                all tokens.

        Raises:
            ValueError: if the answer has no such token and doesn't hold the text.
        """
        count = len(self.pieces)
        if wanted is None:
            return list(range(count))
        if wanted.isdecimal() and 1 <= int(wanted) <= count:
            return [int(wanted) - 1]
        ends = np.cumsum([len(piece) for piece in self.pieces])
        first = "".join(self.pieces).lower().find(wanted.lower()) if wanted else -1
        if first < 0:
            numbered = " ".join(f"{number}:{piece.strip()!r}" for number, piece in enumerate(self.pieces, start=1))
            raise ValueError(f"{wanted!r} is neither in the answer nor a number from 1 to {count}; tokens: {numbered}")
        last = first + len(wanted) - 1
        return list(range(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, last, "right")) + 1))


def attend(chat: Chat) -> AnswerAttention:
    """The attention of the last answer of a chat, from the same cache: the image is not encoded again.

    The steps of the answer run once more with eager attention, which returns its weights; then the model has the
    attention that it had before.

    Raises:
        ValueError: if there is no answer, it is empty, or the language model returns no weights for it.
    """
    pieces = split_answer(chat)
    if not pieces:
        raise ValueError("There is no answer whose attention could be shown: it is empty, or nothing was asked.")
    cache, chat.cache = chat.cache, None  # after an error it would hold a part of the answer
    if cache is None:
        raise ValueError("The cache of the answer is gone; ask again.")
    first, ids = chat.prompt_length - 1, chat.sequence
    _cut(cache, first)
    in_image = (ids[:first] == chat.processor.image_token_id).nonzero()[:, 0]
    language_model = chat.model.model.language_model
    rows = []
    with torch.no_grad(), eager_attention(language_model):
        for steps in ids[first:-1].split(STEPS_AT_A_TIME):
            outputs = chat.model(
                input_ids=steps[None].to(chat.model.device),
                **{CACHE_NAME: cache},
                use_cache=True,
                output_attentions=True,
                logits_to_keep=1,
            )
            rows.append(_mean_weights(outputs.attentions, cache, language_model)[:, in_image])
    chat.cache = cache
    return AnswerAttention(pieces, torch.cat(rows)[: len(pieces)])


def split_answer(chat: Chat) -> list[str]:
    """The text of each token of the last answer, without the special one that ends it.

    A token that is only a part of a letter has no text; the letter stands at the last of them.
    """
    tokenizer = chat.processor.tokenizer
    ids = chat.sequence[chat.prompt_length :].tolist()
    if ids and ids[-1] in tokenizer.all_special_ids:
        ids = ids[:-1]
    pieces, known = [], ""
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], skip_special_tokens=True)
        is_whole = count == len(ids) or not text.endswith("\N{REPLACEMENT CHARACTER}")
        pieces.append(text[len(known) :] if is_whole else "")
        known = text if is_whole else known
    return pieces


@contextmanager
def eager_attention(language_model: PreTrainedModel) -> Iterator[None]:
    """Lets a model compute its attention so that the weights are there, and puts back what it had."""
    before = language_model.config._attn_implementation
    language_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        language_model.set_attn_implementation(before)


def _cut(cache: Cache, length: int) -> None:
    try:
        cache.crop(length - cache.get_seq_length())
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"The cache of this language model can't be cut back to the prompt: {error}") from error


def _mean_weights(
    attentions: Sequence[torch.Tensor | None] | None, cache: Cache, language_model: PreTrainedModel
) -> torch.Tensor:
    """Mean over layers and heads, (steps, tokens so far)."""
    layers = [weights[0].float().mean(dim=0).cpu() for weights in attentions or () if weights is not None]
    if not layers or any(weights.shape[1] != cache.get_seq_length() for weights in layers):
        raise ValueError(
            f"The language model `{language_model.config.model_type}` returns no attention weights for the whole "
            "prompt, so there is no picture of them."
        )
    return torch.stack(layers).mean(dim=0)


class AttentionMaps(NamedTuple):
    """Attention to the tokens of an image, in the places of what they see.

    Args:
        slices: (n, r, c) of n slices, row by row; none where the image is not sliced.
        overview: (r, c).
    """

    slices: np.ndarray
    overview: np.ndarray


def place_weights(weights: torch.Tensor, inspection: Inspection) -> AttentionMaps:
    """Puts the weights of an image's tokens back to the regions that they see; separators are left out.

    Args:
        weights: (n,), in reading order.
        inspection: of the image.

    Raises:
        ValueError: if the image has another number of tokens, or its tokens see all of a view.
    """
    regions, overview_regions = find_regions(inspection)
    order = torch.tensor(inspection.order)
    if len(weights) != len(order):
        raise ValueError(f"There are weights for {len(weights)} tokens, but the image has {len(order)}.")
    is_token = order >= 0
    by_view = np.zeros(int(is_token.sum()))
    by_view[order[is_token]] = weights[is_token].float()
    overview = by_view[len(by_view) - len(overview_regions) :]
    slices = by_view[: len(by_view) - len(overview)].reshape(inspection.plan.num_slices, len(regions))
    return AttentionMaps(
        np.tensordot(slices, spread(regions, inspection.token_grid), axes=1),
        np.tensordot(overview, spread(overview_regions, inspection.overview_token_grid), axes=1),
    )


def find_regions(inspection: Inspection) -> tuple[Regions, Regions]:
    """Returns what the tokens of a slice and of the overview see.

    Raises:
        ValueError: if each of them sees all of its view.
    """
    if inspection.regions is None or inspection.overview_regions is None:
        raise ValueError(
            "The attention has no places to be drawn at: each token of this model's projector sees the whole view."
        )
    return inspection.regions, inspection.overview_regions


def spread(regions: Regions, grid: tuple[int, int]) -> np.ndarray:
    """Returns how much of each region lies in each cell of a (rows, columns) grid: (tokens, rows, columns)."""
    boxes = np.array(regions)
    along = []
    for axis, cells in enumerate(grid):
        # in cells; rounded, so that a region that is a cell is all in it
        start, end = (np.round(boxes[:, side] * cells, 9)[:, None] for side in (axis, axis + 2))
        edges = np.arange(cells)
        inside = (np.minimum(end, edges + 1) - np.maximum(start, edges)).clip(min=0)
        along.append(inside / (end - start))
    return along[0][:, :, None] * along[1][:, None, :]


__all__ = ["AnswerAttention", "AttentionMaps", "attend", "place_weights"]
