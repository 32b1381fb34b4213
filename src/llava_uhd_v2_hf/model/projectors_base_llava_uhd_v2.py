# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What projectors share: their interface, chunks of views with their pyramids, cross-attention.

Shape letters: v views, c channels of the tower, d text width, h w grid of a view in patches, q queries (= tokens of a
view), m queries that share keys, k keys.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import is_torchdynamo_exporting

from .configuration_llava_uhd_v2 import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from .fast_order_llava_uhd_v2 import CHUNK_BYTES, budget, even_parts
from .gradients_llava_uhd_v2 import checkpoints_reentrantly, needs_gradients
from .initial_weights_llava_uhd_v2 import reset_attention
from .plain_layers_llava_uhd_v2 import call_linear
from .registries_llava_uhd_v2 import TOWERS, UPSAMPLERS


class LlavaUhdV2BaseProjector(GradientCheckpointingLayer):
    """Base of projectors: as many tokens as queries, each of which sees the cell of the view that lies at its place.

    A subclass implements `project`, and `token_grid` and `regions` where its tokens are others.

    Attributes:
        supported_levels: choices of `levels` that it takes; the first one is the default.
        options: fields of the projector's config that it reads, of those in `PROJECTOR_OPTIONS`.
    """

    supported_levels: tuple[tuple[int, ...], ...] = ((0, 1, 2), (0,), (0, 1), (0, 2), (0, 1, 2, 3))
    options: tuple[str, ...] = ()

    @staticmethod
    def token_grid(config: LlavaUhdV2ProjectorConfig, height: int, width: int) -> tuple[int, int]:
        """Returns the (rows, columns) of tokens of a view: those of the queries, whatever its size.

        Args:
            config: of the projector.
            height: of the view, in patches.
            width: of the view, in patches.
        """
        rows, columns = config.query_grid
        return rows, columns

    @classmethod
    def regions(
        cls, config: LlavaUhdV2ProjectorConfig, height: int, width: int
    ) -> list[tuple[float, float, float, float]] | None:
        """Returns the cell that each token sees: (top, left, bottom, right) as parts of the view's height and width.

        Args:
            config: of the projector.
            height: of the view, in patches.
            width: of the view, in patches.
        """
        rows, columns = cls.token_grid(config, height, width)
        return [
            (row / rows, column / columns, (row + 1) / rows, (column + 1) / columns)
            for row in range(rows)
            for column in range(columns)
        ]

    def __call__(self, features: list[torch.Tensor], pixels: list[torch.Tensor], **kwargs) -> tuple[torch.Tensor, ...]:
        """
        Args:
            features: (v, c, h, w) from the vision tower, one tensor a view size.
            pixels: (v, 3, patch * h, patch * w), the normalised views, likewise.
            kwargs: handed to `forward`.

        Returns:
            (v, q, d) a view size: the tokens of each view.
        """
        tensors = [*features, *pixels]  # reentrant checkpointing doesn't look into lists
        if self.training and not needs_gradients([self], *tensors):
            with torch.no_grad():
                return super().__call__(*tensors, **kwargs)
        if checkpoints_reentrantly(self):
            # required by no operation, so that those of a frozen up-sampler have no gradients
            tensors.append(torch.empty(0, device=features[0].device, requires_grad=True))
        return super().__call__(*tensors, **kwargs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As a call, whose lists come one tensor after the other.

        Args:
            tensors: the features, (v, c, h, w) a view size, then the pixels, (v, 3, patch * h, patch * w); under
                reentrant checkpointing an empty one behind them, which requires a gradient.

        Returns:
            (v, q, d) a view size: the tokens of each view.
        """
        count = len(tensors) // 2
        return tuple(self.project(*size) for size in zip(tensors[:count], tensors[count : 2 * count], strict=True))

    def project(self, features: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Returns the tokens of views of one size, (v, q, d).

        Args:
            features: (v, c, h, w).
            pixels: (v, 3, patch * h, patch * w).
        """
        raise NotImplementedError


class LlavaUhdV2PyramidProjector(LlavaUhdV2BaseProjector):
    """Base of projectors that make tokens of the levels of the pyramid. A subclass implements `make_tokens`.

    Views are worked through in chunks, so that memory does not grow with their number.
    """

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__()
        projector = config.projector_config
        self.levels = list(projector.levels)
        self.num_channels = TOWERS[config.vision_config.model_type].width(config.vision_config)
        self.text_width = config.text_config.hidden_size
        self.upsampler: nn.Module = UPSAMPLERS[projector.upsampler](projector, self.num_channels)

    def make_tokens(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """Returns the tokens of views, (v, q, d).

        Args:
            levels: those that are read, each (v, c, 2^l h, 2^l w).
        """
        raise NotImplementedError

    def project(self, features: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Returns the tokens of views of one size, (v, q, d).

        Args:
            features: (v, c, h, w).
            pixels: (v, 3, patch * h, patch * w).
        """
        if is_torchdynamo_exporting():  # an exported program may be for any number of views
            return self._project_chunk(features, pixels)
        pixels_a_view = features[0, 0].numel() << (2 * max(self.levels))
        view_bytes = pixels_a_view * max(self.num_channels, self.text_width) * features.element_size()
        parts = even_parts(len(features), budget(CHUNK_BYTES, features) // view_bytes)
        return torch.cat([self._project_chunk(features[part], pixels[part]) for part in parts])

    def _project_chunk(self, features: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        pyramid = self.upsampler(features, pixels)
        return self.make_tokens([pyramid[level] for level in self.levels])


def pyramid_memory(
    config: LlavaUhdV2Config, views: Mapping[tuple[int, int], int], dtype: torch.dtype, widths: int, read: int = 0
) -> int:
    """Estimates the peak memory of a [`LlavaUhdV2PyramidProjector`] on a CPU, without gradients, in bytes.

    Args:
        config: of the model.
        views: how many there are of each (height, width) in patches.
        dtype: of the weights.
        widths: numbers for each pixel of the top level that live at the same time as the pyramid.
        read: numbers for each view that live at the same time, beside the pyramid.
    """
    channels = TOWERS[config.vision_config.model_type].width(config.vision_config)
    pixels = max(height * width for height, width in views) << (2 * max(config.projector_config.levels))
    view_bytes = pixels * max(channels, config.text_config.hidden_size) * dtype.itemsize
    chunk = min(max(views.values()), max(CHUNK_BYTES // view_bytes, 1))
    # while a level is made: it and its mixture in float32; then all levels, at most 4/3 of the top one
    upsampling = 2 * channels * 4 if max(config.projector_config.levels) else 0
    made = channels * dtype.itemsize * 4 // 3
    return chunk * (pixels * (made + max(upsampling, widths * dtype.itemsize)) + read * dtype.itemsize)


class LlavaUhdV2CrossAttention(nn.Module):
    """Multi-head attention of queries to keys, as `nn.MultiheadAttention` computes it."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def reset_parameters(self, std: float):
        """Initialises the layers: the output from a truncated normal distribution, biases with zero."""
        reset_attention(self.query, self.key, self.value)
        init.trunc_normal_(self.output.weight, std=std)
        init.zeros_(self.output.bias)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """
        Args:
            queries: (..., m, d), the same for all views.
            keys, values: (v, ..., k, d).

        Returns:
            (v, ..., m, d).
        """
        lead = keys.shape[:-2]

        def split_heads(states: torch.Tensor) -> torch.Tensor:
            return states.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)

        # quantised layers take three dimensions at most
        query = split_heads(self.query(queries)).expand(*lead, -1, -1, -1).flatten(0, -4)
        key, value = (
            split_heads(call_linear(layer, states.flatten(0, -3)))
            for layer, states in ((self.key, keys), (self.value, values))
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.output(attended.transpose(-2, -3).flatten(-2)).unflatten(0, lead)


__all__ = [
    "LlavaUhdV2BaseProjector",
    "LlavaUhdV2CrossAttention",
    "LlavaUhdV2PyramidProjector",
    "pyramid_memory",
]
