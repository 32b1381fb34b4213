# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The Hiwin projector: up-sampling into the inverse semantic pyramid, then hierarchical window attention."""

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import is_torchdynamo_exporting, logging
from transformers.utils.generic import maybe_autocast

from .configuration_llava_uhd_v2 import LlavaUhdV2Config
from .fast_order_llava_uhd_v2 import CHUNK_BYTES, budget, even_parts, project_views
from .folding_llava_uhd_v2 import (
    AttentionWeights,
    folded_layers,
    folding_pays,
    has_plain_weights,
    multiply_weights,
    reordering_pays,
    sum_weights,
)
from .geometry_llava_uhd_v2 import choose_pooling_grid
from .upsamplers_vdim_llava_uhd_v2 import LlavaUhdV2BilinearUpsampler, LlavaUhdV2Upsampler
from .window_attention_llava_uhd_v2 import LlavaUhdV2WindowAttention


logger = logging.get_logger(__name__)


class LlavaUhdV2Projector(GradientCheckpointingLayer):
    """The Hiwin projector (paper 3.2 and 3.3).

    The plain order of operations is that of the paper and the released code, and so the definition of the numbers. The
    same numbers are made in another order, at less than a tenth of the cost, wherever the layers involved are ordinary
    ones. Layers that are wrapped by LoRA, quantised, sharded, hooked or off-loaded are called, in the plain order.
    """

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__()
        projector = config.projector_config
        self.upsampler: nn.Module
        if projector.upsampler == "vdim":
            self.upsampler = LlavaUhdV2Upsampler(projector, config.vision_config.hidden_size)
        else:
            self.upsampler = LlavaUhdV2BilinearUpsampler(projector)
        self.window_attention = LlavaUhdV2WindowAttention(config)
        self._kept: tuple[AttentionWeights, torch.Tensor] | None = None

    def __call__(
        self, features: list[torch.Tensor], pixels: list[torch.Tensor], plain: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """
        Args:
            features: (v, c, h, w) from the vision tower, one tensor a view size.
            pixels: (v, 3, patch * h, patch * w), the normalised views, likewise.
            plain: whether to compute in the order of the paper and the released code.

        Returns:
            (v, q, d) a view size: the tokens of each view.
        """
        # reentrant checkpointing doesn't look into lists, and what it returns has a gradient only if an input has one
        first, *others = [*features, *pixels]
        reentrant = getattr(getattr(self, "_gradient_checkpointing_func", None), "keywords", {}).get("use_reentrant")
        if self.training and self.gradient_checkpointing and reentrant and torch.is_grad_enabled():
            first = first if first.requires_grad else first.detach().requires_grad_()
        return super().__call__(first, *others, plain=plain)

    def forward(self, *tensors: torch.Tensor, plain: bool = False) -> tuple[torch.Tensor, ...]:
        """As a call, whose lists come one tensor after the other.

        Args:
            tensors: the features, (v, c, h, w) a view size, and then the pixels, (v, 3, patch * h, patch * w).
            plain: whether to compute in the order of the paper and the released code.

        Returns:
            (v, q, d) a view size: the tokens of each view.
        """
        features, pixels = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        sizes = list(zip(features, pixels, strict=True))
        if plain:
            return tuple(self.window_attention([self.upsampler(*size)]) for size in sizes)
        attention = self.window_attention
        grids = [choose_pooling_grid(maps.shape[-2], maps.shape[-1], attention.pooling_grids) for maps in features]
        pays = [
            reordering_pays(attention, (maps.shape[-2], maps.shape[-1]), rows * columns)
            for maps, (rows, columns) in zip(features, grids, strict=True)
        ]
        # the other order goes view by view
        uncounted = any(isinstance(maps.shape[0], torch.SymInt) for maps in features)
        if uncounted or not any(pays) or not self.can_reorder():
            return tuple(self.call_layers(*size) for size in sizes)
        cells = [rows * columns for (rows, columns), maps in zip(grids, features, strict=True) for _ in maps]
        weights = self.multiply_weights(cells)
        return tuple(
            project_views(self.upsampler, attention, weights, *size, grid)
            for size, grid in zip(sizes, grids, strict=True)
        )

    def can_reorder(self) -> bool:
        """Whether every layer whose weight the other order reads is an ordinary one."""
        attention = self.window_attention
        called = (attention, self.upsampler, *getattr(self.upsampler, "stages", ()))
        hooked = any(part._forward_pre_hooks or part._forward_hooks or "forward" in vars(part) for part in called)
        return not hooked and all(map(has_plain_weights, folded_layers(self.upsampler, attention)))

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
        if self._kept is not None and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            if torch.equal(sum_weights(attention), self._kept[1]):
                return self._kept[0]
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
                "or off-loaded. Merge the adapters, or leave it unfolded."
            )
        attention = self.window_attention
        with torch.no_grad():
            weights = multiply_weights(attention, fold=True, dtype=attention.key.weight.dtype)
            self._kept = (weights, sum_weights(attention))

    def unfold(self):
        """Drops what [`~LlavaUhdV2Projector.fold`] keeps."""
        self._kept = None

    def train(self, mode: bool = True):
        """As `nn.Module.train`; what is kept of the weights is for inference and dropped."""
        if mode:
            self.unfold()
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self.unfold()
        return super()._apply(fn, recurse)


__all__ = ["LlavaUhdV2Projector"]
