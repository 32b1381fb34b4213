# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A multi-layer perceptron on the levels of the pyramid, side by side (`mlp-v2` and `mlp144` of the released code)."""

from collections.abc import Iterable, Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_llava_uhd_v2 import LlavaUhdV2Config
from .initial_weights_llava_uhd_v2 import reset_linear
from .plain_layers_llava_uhd_v2 import call_linear
from .projectors_base_llava_uhd_v2 import LlavaUhdV2PyramidProjector, pyramid_memory
from .resizing_llava_uhd_v2 import full_precision, resize


class LlavaUhdV2MlpPyramidProjector(LlavaUhdV2PyramidProjector):
    """Resizes all levels to the query grid, concatenates their channels and projects each cell to a token.

    As in the released code a GELU precedes every linear layer, the first one too, and levels are read by bilinear
    interpolation without antialiasing: finer levels at few of their pixels.
    """

    options = ("query_grid", "mlp_depth")

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__(config)
        rows, columns = config.projector_config.query_grid
        self.query_grid = rows, columns
        widths = [len(self.levels) * self.num_channels] + [self.text_width] * config.projector_config.mlp_depth
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, widths[1:]))

    @staticmethod
    def memory(config: LlavaUhdV2Config, views: Mapping[tuple[int, int], int], dtype: torch.dtype) -> int:
        """Estimates the peak memory of a call without gradients on a CPU, beside inputs and outputs, in bytes.

        Args:
            config: of the model.
            views: how many there are of each (height, width) in patches.
            dtype: of the weights.
        """
        return pyramid_memory(config, views, dtype, widths=0)

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights, and so of the features that a call takes; quantised layers keep it in their biases."""
        return cast(nn.Linear, self.layers[-1]).bias.dtype

    def reset_parameters(self):
        """Initialises the up-sampler, and the layers as PyTorch does by default (released code)."""
        self.upsampler.reset_parameters()  # type: ignore[operator]
        reset_linear(cast(Iterable[nn.Linear], self.layers))

    def make_tokens(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """Returns the tokens of views, (v, q, d).

        Args:
            levels: those that are read, each (v, c, 2^l h, 2^l w).
        """
        cells = [resize(full_precision(level), self.query_grid, "bilinear").to(level.dtype) for level in levels]
        tokens = torch.cat(cells, dim=1).flatten(2).mT
        for layer in cast(Iterable[nn.Linear], self.layers):
            tokens = call_linear(layer, F.gelu(tokens))
        return tokens


__all__ = ["LlavaUhdV2MlpPyramidProjector"]
