# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""From the packed patches of images to the tokens of their views: vision tower and projector, view size by view size.

Shape letters: i images, v views of one size, n patches of a view, c ViT channels, h w patch grid, q tokens of a view,
d text width.
"""

import contextlib
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, PreTrainedConfig
from transformers.utils import is_torchdynamo_exporting, logging

from .configuration_llava_uhd_v2 import LlavaUhdV2Config
from .geometry_llava_uhd_v2 import SlicePlan
from .gradients_llava_uhd_v2 import needs_gradients
from .registries_llava_uhd_v2 import PROJECTORS, TOWERS


logger = logging.get_logger(__name__)


class EncodedViews(NamedTuple):
    """What the vision encoder makes of a batch of images.

    Args:
        tokens: (views * q of all images, d): the tokens of their views, image by image in the order of the plans.
        features: (i, p_max, c), the tower's features that were read, laid out like `pixel_values`.
        hidden_states: the input of every layer that ran and the output of the last one, each (i, p_max, c).
        attentions: for every layer that ran, one (v, heads, n, n) tensor a view size (class token included).
    """

    tokens: torch.Tensor
    features: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[tuple[torch.Tensor, ...], ...] | None = None


# Bytes of the tower's activations that are worked on at a time: on a CPU more views only crowd the caches.
TOWER_BYTES = {"cpu": 2**26}
DEFAULT_TOWER_BYTES = 2**30


def views_at_a_time(config: PreTrainedConfig, patches: int, itemsize: int, device_type: str) -> int:
    """How many views of so many patches the tower takes at a time."""
    tower = TOWERS[config.model_type]
    # two states, keys, queries and values, and the wide layer of the perceptron
    view = patches * (5 * tower.width(config) + tower.wide_layer_size(config)) * itemsize
    return max(TOWER_BYTES.get(device_type, DEFAULT_TOWER_BYTES) // view, 1)


def num_read_layers(config: LlavaUhdV2Config) -> int:
    """How many layers run until the hidden state `config.vision_feature_layer` is there."""
    layer, count = config.vision_feature_layer, config.vision_config.num_hidden_layers
    return layer if layer >= 0 else count + 1 + layer


@contextlib.contextmanager
def record_attentions(attentions: Iterable[nn.Module]):
    """Collects the second output of attention modules, their weights, in the order in which they run."""
    weights: list[torch.Tensor] = []
    hooks = [module.register_forward_hook(lambda _, __, output: weights.append(output[1])) for module in attentions]
    try:
        yield weights
    finally:
        for hook in hooks:
            hook.remove()


class LlavaUhdV2VisionEncoder(nn.Module):
    """Vision tower and projector, with the whole loop over views inside.

    Views are batched by their size (an image has at most two). Where the model is sharded this module is one unit, so
    every rank issues the same collectives, however many view sizes its images have.
    """

    def __init__(self, config: LlavaUhdV2Config):
        super().__init__()
        self.projector_config = config.projector_config
        self.tower = TOWERS[config.vision_config.model_type]
        self.patch_size = self.tower.stride(config.vision_config)
        self.num_read_layers = num_read_layers(config)
        self.vision_tower = AutoModel.from_config(config.vision_config, dtype=torch.get_default_dtype())
        self.projector = PROJECTORS[config.projector_config.projector_type](config)
        self.freeze_unread_parameters()

    def train(self, mode: bool = True):
        """As `nn.Module.train`; freezes again what is never read, since loading weights makes everything trainable."""
        self.freeze_unread_parameters()
        return super().train(mode)

    def freeze_unread_parameters(self):
        """Freezes what comes after the hidden state that is read: it is kept for export, but never runs."""
        tower = self.vision_tower
        read = [*self.tower.embedding_modules(tower), *self.tower.layers(tower)[: self.num_read_layers]]
        used = {parameter for module in read for parameter in module.parameters()}
        used -= set(self.tower.unread_parameters(tower))
        for parameter in self.vision_tower.parameters():
            if parameter not in used:
                parameter.requires_grad_(False)

    def embed_views(self, views: torch.Tensor) -> torch.Tensor:
        """Embeds views of one size: (v, 3, patch * h, patch * w) -> (v, prefix + n, c).

        In training, frozen embeddings require no gradient, whatever hooks make their outputs require.
        """
        modules = self.tower.embedding_modules(self.vision_tower)
        if not self.training or needs_gradients(modules, views):
            return self.tower.embed(self.vision_tower, views)
        with torch.no_grad():
            return self.tower.embed(self.vision_tower, views).detach()

    def encode_views(
        self, views: torch.Tensor, every_state: bool = False, one_batch: bool = False, **kwargs
    ) -> list[torch.Tensor]:
        """Runs the tower on views of one size: embeddings at once, so that positions are resized only once, and layers
        on as many views at a time as memory and the device's caches take.

        Args:
            views: (v, 3, patch * h, patch * w), normalised.
            every_state: whether to return all hidden states, not the one that is read alone.
            one_batch: whether to run all views at once.
            kwargs: handed to the tower's layers.

        Returns:
            The hidden states without class token, each (v, h * w, c).
        """
        network = self.vision_tower
        state = self.embed_views(views)
        patches = self.tower.patches(state).shape[1]
        if one_batch or is_torchdynamo_exporting():  # an exported program may be for any number of views
            chunks = [state]
        else:
            chunks = state.split(views_at_a_time(network.config, patches, state.itemsize, views.device.type))
        hidden_states = [
            self.tower.run_layers(network, chunk, self.num_read_layers, every_state, **kwargs) for chunk in chunks
        ]
        return [self.tower.patches(torch.cat(states)) for states in zip(*hidden_states, strict=True)]

    def project(self, states: list[torch.Tensor], views: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The tokens of views of several sizes: (v, h * w, c) and (v, 3, patch * h, patch * w) a size -> (v, q, d)."""
        # the tower may be kept in another precision than the projector, to train one of them
        dtype = self.projector.dtype
        grids = [(size.shape[-2] // self.patch_size, size.shape[-1] // self.patch_size) for size in views]
        features = [self.tower.feature_map(state, grid).to(dtype) for state, grid in zip(states, grids, strict=True)]
        return self.projector(features, views)

    def check_counts(self, tokens: tuple[torch.Tensor, ...], sizes: list[tuple[int, int]]) -> None:
        """Looks whether the projector made as many tokens of a view as its `token_grid` says.

        Args:
            tokens: (v, q, d) a view size.
            sizes: (height, width) in pixels.

        Raises:
            ValueError: if not.
        """
        for size_tokens, size in zip(tokens, sizes, strict=True):
            grid, _ = self.projector_config.token_grids(SlicePlan((0, 0), (0, 0), size), self.patch_size)
            if size_tokens.shape[1] != math.prod(grid):
                kind = self.projector_config.projector_type
                raise ValueError(
                    f"The projector `{kind}` made {size_tokens.shape[1]} tokens of a view of {size} pixels, but its "
                    f"`token_grid` is {grid}."
                )

    def unpack_views(self, patches: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Puts the patches of views together: (v * h * w, 3 * patch * patch) -> (v, 3, patch * h, patch * w)."""
        rows, columns = size[0] // self.patch_size, size[1] // self.patch_size
        channels = patches.shape[-1] // self.patch_size**2
        patches = patches.reshape(-1, rows, columns, channels, self.patch_size, self.patch_size)
        return patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, *size)

    def forward(
        self,
        pixel_values: torch.Tensor | list[torch.Tensor],
        plans: list[SlicePlan],
        last: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **kwargs,
    ) -> EncodedViews:
        """
        Args:
            pixel_values: (i, p_max, 3 * patch * patch), or a list of such rows of unequal length: the patches of each
                image, view by view; what lies behind the last view is ignored.
            plans: one an image.
            last: (), zero; entering this module first, its gradient comes after those of all parameters.
            output_hidden_states: whether to return every hidden state.
            output_attentions: whether to return attention weights (needs the `eager` implementation).
            kwargs: handed to the tower's layers.
        """
        patches, places = defaultdict(list), defaultdict(list)
        for image, plan in enumerate(plans):
            lengths = [(size[0] // self.patch_size) * (size[1] // self.patch_size) for size in plan.view_sizes]
            views = pixel_values[image][: sum(lengths)].split(lengths)
            for place, (size, view) in enumerate(zip(plan.view_sizes, views, strict=True)):
                patches[size].append(view)
                places[size].append((image, place))

        batches = [self.unpack_views(torch.cat(views), size) for size, views in patches.items()]
        layers = self.tower.layers(self.vision_tower)[: self.num_read_layers]
        with record_attentions(map(self.tower.attention, layers) if output_attentions else ()) as attentions:
            hidden_states = [
                self.encode_views(batch, output_hidden_states, one_batch=output_attentions, **kwargs)
                for batch in batches
            ]
        projected = self.project([states[-1] for states in hidden_states], batches)
        if not torch.compiler.is_compiling():
            self.check_counts(projected, list(patches))

        image_tokens: list[list] = [[None] * len(plan.view_sizes) for plan in plans]
        states: list[list] = [[None] * len(plan.view_sizes) for plan in plans]
        for size, size_tokens, size_states in zip(patches, projected, hidden_states, strict=True):
            stacked = torch.stack(size_states, dim=1)
            # apart at once: the gradient of each view by itself would be as large as that of all
            for (image, place), view, state in zip(places[size], size_tokens.unbind(), stacked.unbind(), strict=True):
                image_tokens[image][place], states[image][place] = view, state

        if None in attentions:
            logger.warning_once('Attention weights are there only with `attn_implementation="eager"`.')
            output_attentions = False
        tokens = torch.cat(list(itertools.chain.from_iterable(image_tokens)))
        length = max(len(row) for row in pixel_values)
        packed = pack_rows([torch.cat(image_states, dim=1) for image_states in states], length)
        return EncodedViews(
            tokens=tokens if last is None else tokens + last,
            features=packed[-1],
            hidden_states=tuple(packed) if output_hidden_states else None,
            attentions=tuple(zip(*batched(attentions, len(layers)), strict=True)) if output_attentions else None,
        )


def pack_rows(rows: list[torch.Tensor], length: int) -> torch.Tensor:
    """Pads one (layers, patches, c) tensor an image to (layers, i, length, c)."""
    padded = pad_sequence([row.transpose(0, 1) for row in rows], batch_first=True)
    padded = F.pad(padded, (0, 0, 0, 0, 0, length - padded.shape[1]))
    return padded.permute(2, 0, 1, 3)


def batched(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]


__all__ = ["EncodedViews", "LlavaUhdV2VisionEncoder"]
