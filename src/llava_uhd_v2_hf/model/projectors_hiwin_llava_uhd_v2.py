# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The Hiwin projector: up-sampling into the inverse semantic pyramid, then hierarchical window attention."""

import math
from collections.abc import Mapping

import torch
from torch import nn
from transformers.utils import is_torchdynamo_exporting, logging
from transformers.utils.generic import maybe_autocast

from .configuration_llava_uhd_v2 import LlavaUhdV2Config
from .fast_order_llava_uhd_v2 import (
    BAND_BYTES,
    CHUNK_BYTES,
    HEAD_GROUPS,
    STRIP_BYTES,
    budget,
    even_parts,
    project_views,
)
from .folding_llava_uhd_v2 import (
    AttentionWeights,
    folded_layers,
    folding_pays,
    multiply_weights,
    reordering_pays,
    sum_weights,
)
from .plain_layers_llava_uhd_v2 import has_plain_layers, has_plain_weights, is_hooked
from .projectors_base_llava_uhd_v2 import LlavaUhdV2BaseProjector
from .registries_llava_uhd_v2 import POOLING_GRIDS, TOWERS, UPSAMPLERS
from .window_attention_llava_uhd_v2 import LlavaUhdV2WindowAttention


logger = logging.get_logger(__name__)


class LlavaUhdV2Projector(LlavaUhdV2BaseProjector):
    """The Hiwin projector (paper 3.2 and 3.3).

    The plain order of operations is that of the paper and the released code, and so the definition of the numbers. The
    same numbers are made in another order, at less than a tenth of the cost, wherever the layers involved are ordinary
    ones. Layers that are wrapped by LoRA, quantised, sharded, hooked or off-loaded are called, in the plain order.
    """

    options = ("query_grid", "num_query_sets", "pooling_grids", "pooling_grid_rule")

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__()
        projector = config.projector_config
        channels = TOWERS[config.vision_config.model_type].width(config.vision_config)
        self.upsampler: nn.Module = UPSAMPLERS[projector.upsampler](projector, channels)
        self.window_attention = LlavaUhdV2WindowAttention(config)
        self._folded: tuple[AttentionWeights, torch.Tensor] | None = None

    @staticmethod
    def memory(config: LlavaUhdV2Config, views: Mapping[tuple[int, int], int], dtype: torch.dtype) -> int:
        """Estimates the peak memory of a call without gradients on a CPU, beside inputs and outputs, in bytes.

        Counted are the largest tensors that live at the same time. docs/processing.md compares it with measurements.

        Args:
            config: of the model.
            views: how many there are of each (height, width) in patches.
            dtype: of the weights.
        """
        projector, width = config.projector_config, config.text_config.hidden_size
        channels = TOWERS[config.vision_config.model_type].width(config.vision_config)
        levels, top, queries = len(projector.levels), max(projector.levels), math.prod(projector.query_grid)
        largest, count = max(height * width for height, width in views), max(views.values())
        # products of the weights: Gram matrices, queries, fixed keys, and what stands for keys and values
        rows = queries * projector.num_query_sets
        weights = levels * channels**2 * 4 + (rows + queries) * width * 4
        weights += max(width, levels * channels) * width * (4 + dtype.itemsize)
        # what they are made of, three times: the heap keeps the room
        weights += 3 * levels * channels * width * 4
        rule, candidates = POOLING_GRIDS[projector.pooling_grid_rule], projector.pooling_grids
        cells, grids = 0, set()  # of a window on all levels, at most
        for height, width_ in views:
            level_grids = [rule(height, width_, level, candidates) for level in projector.levels]
            cells = max(cells, sum(map(math.prod, level_grids)))
            grids.add(len(set(level_grids)))
        if grids != {1} or UPSAMPLERS[projector.upsampler].linear_levels is None:  # the plain order runs
            pixels = largest << (2 * top)
            chunk = min(count, max(CHUNK_BYTES // (pixels * width * dtype.itemsize), 1))
            # the levels, projected maps with their keys, and keys and values before and after their projections
            return chunk * 4 * (pixels * (2 * channels + 4 * width) + 6 * queries * cells * width)
        # a chunk of views: pooled features in float32, and answers on their way out
        pooled = queries * cells * channels * 4
        chunk = min(count, max(CHUNK_BYTES // pooled, 1))
        answers = 3 * chunk * rows * width * 4
        # bands of the top level's operator and the whole one of the level below, or heads of a strip of windows
        operator = 4 ** max(top - 1, 0) * largest**2 * 4
        working = max(2 * operator + 8 * BAND_BYTES, 4 * STRIP_BYTES // HEAD_GROUPS)
        return weights + chunk * pooled + answers + working

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights, and so of the features that a call takes."""
        return self.window_attention.queries.dtype

    def reset_parameters(self):
        """Initialises the up-sampler and the window attention."""
        self.upsampler.reset_parameters()  # type: ignore[operator]
        self.window_attention.reset_parameters()

    def forward(self, *tensors: torch.Tensor, plain: bool = False) -> tuple[torch.Tensor, ...]:
        """As a call, whose lists come one tensor after the other.

        Args:
            tensors: the features, (v, c, h, w) a view size, then the pixels, (v, 3, patch * h, patch * w); under
                reentrant checkpointing an empty one behind them, which requires a gradient.
            plain: whether to compute in the order of the paper and the released code.

        Returns:
            (v, q, d) a view size: the tokens of each view.
        """
        count = len(tensors) // 2
        features, pixels = tensors[:count], tensors[count : 2 * count]
        sizes = list(zip(features, pixels, strict=True))
        if plain:
            return tuple(self.window_attention([self.upsampler(*size)]) for size in sizes)
        attention = self.window_attention
        level_grids = [attention.level_pooling_grids(maps.shape[-2], maps.shape[-1]) for maps in features]
        grids = [level_grid for level_grid, *_ in level_grids]
        pays = [
            reordering_pays(attention, (maps.shape[-2], maps.shape[-1]), rows * columns)
            for maps, (rows, columns) in zip(features, grids, strict=True)
        ]
        # the other order goes view by view, and has as many cells on every level
        uncounted = any(isinstance(maps.shape[0], torch.SymInt) for maps in features)
        differing = any(len(set(level_grid)) > 1 for level_grid in level_grids)
        if uncounted or differing or not any(pays) or not self.can_reorder():
            return tuple(self.call_layers(*size) for size in sizes)
        cells = [rows * columns for (rows, columns), maps in zip(grids, features, strict=True) for _ in maps]
        weights = self.multiply_weights(cells)
        return tuple(
            project_views(self.upsampler, attention, weights, *size, grid)
            for size, grid in zip(sizes, grids, strict=True)
        )

    def can_reorder(self) -> bool:
        """Whether up-sampling is linear, and every layer whose weight the other order reads is an ordinary one."""
        attention = self.window_attention
        linear = self.upsampler.linear_levels is not None and has_plain_layers(self.upsampler)
        return linear and not is_hooked(attention) and all(map(has_plain_weights, folded_layers(attention)))

    def call_layers(self, features: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The plain order in chunks of views, keys and values projected once for all query sets.

        Args:
            features: (v, c, h, w).
            pixels: (v, 3, patch * h, patch * w).

        Returns:
            (v, q, d).
        """
        attention = self.window_attention
        if is_torchdynamo_exporting():  # an exported program may be for any number of views
            return attention([self.upsampler(features, pixels)], sets_apart=False)
        pixels_a_view = features[0, 0].numel() << (2 * max(attention.levels))
        view_bytes = pixels_a_view * attention.queries.shape[-1] * features.element_size()
        parts = even_parts(len(features), budget(CHUNK_BYTES, features) // view_bytes)
        return attention((self.upsampler(features[part], pixels[part]) for part in parts), sets_apart=False)

    def multiply_weights(self, pooled_cells: list[int]) -> AttentionWeights:
        """Products of the weights for a call: those that are kept, or new ones.

        Args:
            pooled_cells: how many cells a window of each view has on a level.
        """
        attention, device_type = self.window_attention, self.window_attention.queries.device.type
        # compiled code can't drop what is kept, nor compare sums that it makes in another order
        if self._folded is not None and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            if torch.equal(sum_weights(attention), self._folded[1]):
                return self._folded[0]
            logger.warning("The projector's weights have changed since they were folded; what was kept is dropped.")
            self.unfold()
        dtype = attention.key.weight.dtype
        if device_type != "meta" and torch.is_autocast_enabled(device_type):
            dtype = torch.get_autocast_dtype(device_type)
        with maybe_autocast(device_type, enabled=False):
            fold = folding_pays(attention, pooled_cells, training=torch.is_grad_enabled())
            return multiply_weights(attention, fold, dtype)

    def fold(self):
        """Keeps the products of the weights for later calls without gradients, until the weights change.

        They are no part of the state dict. `train()`, a change of dtype or device, and any change of the weights, seen
        by their sums, drop them. Compiled code makes them in every call.

        Raises:
            ValueError: if the module trains, or has layers that must be called.
        """
        if self.training:
            raise ValueError("The projector is in training mode; call `eval()` before folding its weights.")
        if not self.can_reorder():
            raise ValueError(
                "The projector has layers whose weights can't be folded: wrapped by LoRA, quantised, sharded, hooked "
                "or off-loaded, or an up-sampler that is not linear. Merge the adapters, or leave it unfolded."
            )
        attention = self.window_attention
        with torch.no_grad():
            weights = multiply_weights(attention, fold=True, dtype=attention.key.weight.dtype)
            self._folded = (weights, sum_weights(attention))

    def unfold(self):
        """Drops what [`~LlavaUhdV2Projector.fold`] keeps."""
        self._folded = None

    def train(self, mode: bool = True):
        """As `nn.Module.train`; what is kept of the weights is for inference and dropped."""
        if mode:
            self.unfold()
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self.unfold()
        return super()._apply(fn, recurse)


__all__ = ["LlavaUhdV2Projector"]
