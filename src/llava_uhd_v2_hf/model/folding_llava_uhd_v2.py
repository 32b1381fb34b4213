# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What the reordered window attention needs of the weights: made once for all views of a call.

Level projection, layer norm (all but its one division a pixel), key and value projection are linear, so they can be
multiplied into one matrix a head and level before any view is there. docs/performance.md derives it.

Shape letters: c ViT channels, d text width, q queries (= windows), s query sets, g heads, e channels of a head,
l levels, t = q + l + 1 fixed keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .resizing_llava_uhd_v2 import full_precision
from .window_attention_llava_uhd_v2 import LlavaUhdV2WindowAttention


# What the numbers of multiplications don't say, measured by benchmarks/projector_forms.py
TRAINING_FACTOR = 2.0  # with a backward pass, a view's work grows so much more than the folding does
PLAIN_FACTOR = 1.6  # time of a multiplication of the plain order, over that of the other


@dataclass
class AttentionWeights:
    """Products of the window attention's weights. x is c + 1 where `folded` (one group a level), else d (one group).

    Args:
        projections: one (c + 1, d) a level, the centred projection and, last, its bias; none where `folded`.
        grams: one (c + 1, c + 1) a level, products of the rows of its projection, over d.
        query: (q, s, g, e), scaled.
        fixed_keys: (t, g, e), the keys that no image changes: the position table, then the constants of every level,
            then the key bias.
        to_keys: (g, e, groups, x), what the queries are multiplied with in place of the keys.
        to_answers: (g, e, groups, x), what the attention's mixtures are multiplied with in place of the values.
        covered_answer: (g, e), what the layer norm's bias adds to an answer where a window lies inside the map.
        answer_bias: (g, e), the bias of the values.
        folded: whether the level projections are part of `to_keys` and `to_answers`.
    """

    projections: list[torch.Tensor]
    grams: list[torch.Tensor]
    query: torch.Tensor
    fixed_keys: torch.Tensor
    to_keys: torch.Tensor
    to_answers: torch.Tensor
    covered_answer: torch.Tensor
    answer_bias: torch.Tensor
    folded: bool

    def split_heads(self, size: int) -> list["AttentionWeights"]:
        """The same for `size` heads at a time."""
        axes = {"query": 2, "fixed_keys": 1, "to_keys": 0, "to_answers": 0, "covered_answer": 0, "answer_bias": 0}
        parts = zip(*(getattr(self, name).split(size, dim=axis) for name, axis in axes.items()), strict=True)
        return [replace(self, **dict(zip(axes, part, strict=True))) for part in parts]


def folded_layers(attention: LlavaUhdV2WindowAttention) -> list[nn.Module]:
    """The layers whose weights are read instead of the layers being called."""
    return [attention.key, attention.value, attention.norm_features, *attention.level_projections.values()]


def multiply_weights(attention: LlavaUhdV2WindowAttention, fold: bool, dtype: torch.dtype) -> AttentionWeights:
    """
    Args:
        attention: the window attention.
        fold: whether to multiply the level projections into keys and values, which pays with several views.
        dtype: of `to_answers`, which the largest product reads.
    """
    heads, width = attention.num_heads, attention.key.in_features
    norm = attention.norm_features
    query = attention.query(attention.norm_query(attention.queries) + attention.position_embeddings)
    query = (full_precision(query) * (width // heads) ** -0.5).transpose(0, 1).unflatten(-1, (heads, -1))

    constants = full_precision(attention.level_embeddings) + full_precision(norm.bias)
    fixed_keys = torch.cat([full_precision(attention.position_embeddings), constants])
    fixed_keys = F.linear(fixed_keys, full_precision(attention.key.weight))
    fixed_keys = torch.cat([fixed_keys, full_precision(attention.key.bias)[None]])
    covered = (full_precision(attention.value.weight) * full_precision(norm.bias)).sum(dim=1)

    projections = [centred_projection(attention, level) for level in attention.levels]
    grams = [projection @ projection.T / width for projection in projections]
    to_keys, to_answers = (full_precision(layer.weight) for layer in (attention.key, attention.value))
    if fold:
        gained = torch.cat([projection * full_precision(norm.weight) for projection in projections]).T
        projections = []
        to_keys, to_answers = to_keys @ gained, (to_answers @ gained).to(dtype)
    else:
        # copies: a checkpoint's tensors lie at any address, and unaligned ones are rounded differently
        to_keys, to_answers = to_keys.clone(), to_answers.to(dtype, copy=True)
    shape = (heads, width // heads, len(attention.levels) if fold else 1, -1)
    return AttentionWeights(
        projections=projections,
        grams=grams,
        query=query,
        fixed_keys=fixed_keys.unflatten(-1, (heads, -1)),
        to_keys=to_keys.view(shape),
        to_answers=to_answers.view(shape),
        covered_answer=covered.unflatten(0, (heads, -1)),
        answer_bias=full_precision(attention.value.bias).unflatten(0, (heads, -1)),
        folded=fold,
    )


def centred_projection(attention: LlavaUhdV2WindowAttention, level: int) -> torch.Tensor:
    """Weight and bias of a level's projection less their mean over the text channels: (c + 1, d), float32 at least."""
    layer = cast(nn.Linear, attention.level_projections[str(level)])
    extended = torch.cat([full_precision(layer.weight), full_precision(layer.bias)[:, None]], dim=1).T
    return extended - extended.mean(dim=1, keepdim=True)


def sum_weights(attention: LlavaUhdV2WindowAttention) -> torch.Tensor:
    """Float32 sums of every weight that [`multiply_weights`] reads: tells whether one has changed.

    A matrix is summed along each of its axes, so that numbers that have only moved are seen too.
    """
    read = [attention.queries, attention.position_embeddings, attention.level_embeddings]
    for module in (attention.query, attention.key, attention.value, attention.norm_query, attention.norm_features):
        read += module.parameters()
    read += attention.level_projections.parameters()
    sums = []
    for weight in read:
        for axis, length in enumerate(weight.shape):
            sums.append(weight.detach().movedim(axis, 0).reshape(length, -1).sum(1, dtype=torch.float32))
    return torch.cat(sums)


def folding_pays(attention: LlavaUhdV2WindowAttention, pooled_cells: Sequence[int], training: bool) -> bool:
    """Whether folding the level projections saves more multiplications than it takes.

    Args:
        attention: the window attention.
        pooled_cells: how many cells a window of each view has on a level.
        training: whether there is a backward pass.
    """
    sets, queries, width = attention.queries.shape
    levels, channels = len(attention.levels), attention.num_channels
    folding = 2 * levels * channels * width**2 + sets * queries * width * (levels * channels - width)
    saved = 0
    for cells in pooled_cells:
        keys = queries * levels * cells
        scores_and_mixtures = 2 * sets * attention.num_heads * keys * (width - channels)
        answers = sets * queries * width * (width - levels * channels)
        saved += keys * channels * width + scores_and_mixtures + answers
    return saved * (TRAINING_FACTOR if training else 1) > folding


def reordering_pays(attention: LlavaUhdV2WindowAttention, grid: tuple[int, int], pooled_cells: int) -> bool:
    """Whether the other order takes less time for a view than the plain one: not with few channels.

    What both have in common is left out.

    Args:
        attention: the window attention.
        grid: (h, w) of the ViT.
        pooled_cells: of a window on one level.
    """
    sets, queries, width = attention.queries.shape
    channels, patches = attention.num_channels, grid[0] * grid[1]
    pixels = [patches << (2 * level) for level in attention.levels]
    keys = queries * len(pixels) * pooled_cells
    plain = sum(pixels) * channels * width + 2 * keys * width**2
    operators = sum(pixels) * patches**2 + keys * patches * channels
    attended = 2 * sets * attention.num_heads * keys * width + keys * channels * width + sets * queries * width**2
    return operators + attended < PLAIN_FACTOR * plain
