# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""From the packed patches of images to the tokens of their views: vision tower and projector, view size by view size.

Shape letters: i images, v views of one size, n patches of a view, c ViT channels, h w patch grid, q tokens of a view,
d text width.
"""

import contextlib
import itertools
from collections import defaultdict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import is_torchdynamo_exporting, logging

from .configuration_llava_uhd_v2 import LlavaUhdV2Config
from .geometry_llava_uhd_v2 import SlicePlan
from .projectors_hiwin_llava_uhd_v2 import LlavaUhdV2Projector
from .resizing_llava_uhd_v2 import resize


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
    # two states, keys, queries and values, and the wide layer of the perceptron
    view = patches * (5 * config.hidden_size + wide_layer_size(config)) * itemsize
    return max(TOWER_BYTES.get(device_type, DEFAULT_TOWER_BYTES) // view, 1)


def wide_layer_size(config: PreTrainedConfig) -> int:
    return getattr(config, "intermediate_size", 0) or config.mlp_ratio * config.hidden_size


def tower_layers(tower: PreTrainedModel) -> nn.ModuleList:
    return tower.encoder.layer if tower.config.model_type == "dinov2" else tower.encoder.layers


def num_prefix_tokens(tower: PreTrainedModel) -> int:
    """Tokens before the patches: the class token, which SigLIP doesn't have."""
    return 0 if tower.config.model_type == "siglip_vision_model" else 1


def num_read_layers(config: LlavaUhdV2Config) -> int:
    """How many layers run until the hidden state `config.vision_feature_layer` is there."""
    layer, count = config.vision_feature_layer, config.vision_config.num_hidden_layers
    return layer if layer >= 0 else count + 1 + layer


def embed_views(tower: PreTrainedModel, views: torch.Tensor) -> torch.Tensor:
    """The tower's embeddings for views of any size, positions interpolated: (v, 3, H, W) -> (v, prefix + n, c).

    The tower's own interpolation reads its position table as `.weight`, which is empty while the model is off-loaded:
    here every embedding module is called.
    """
    embeddings = tower.embeddings
    if tower.config.model_type == "dinov2":
        return embeddings(views)

    patches = embeddings.patch_embedding(views.to(embeddings.patch_embedding.weight.dtype))
    grid = (patches.shape[-2], patches.shape[-1])
    prefix = num_prefix_tokens(tower)
    positions = embeddings.position_embedding(torch.arange(embeddings.num_positions, device=patches.device))
    states = patches.flatten(2).transpose(1, 2) + resize_positions(positions[prefix:], grid)
    if not prefix:
        return states
    # the class token lies in the module itself, which has to be called for it: any image of its native size will do
    native = views.new_zeros(1, 3, embeddings.image_size, embeddings.image_size)
    class_token = embeddings(native)[:, :1]
    return torch.cat([class_token.expand(views.shape[0], -1, -1), states], dim=1)


def resize_positions(positions: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Bicubic interpolation of a square position table: (side * side, c) -> (h * w, c)."""
    side = int(len(positions) ** 0.5)
    if grid == (side, side):
        return positions
    table = positions.float().view(side, side, -1).permute(2, 0, 1)
    return resize(table, grid, "bicubic").flatten(1).T.to(positions.dtype)


@contextlib.contextmanager
def record_attentions(layers: nn.ModuleList, record: bool):
    """Collects the attention weights of `layers`, in the order in which they run."""
    weights: list[torch.Tensor] = []
    attentions = [getattr(layer, "self_attn", None) or layer.attention for layer in layers] if record else []
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
        self.patch_size = config.vision_config.patch_size
        self.num_read_layers = num_read_layers(config)
        self.vision_tower = AutoModel.from_config(config.vision_config, dtype=torch.get_default_dtype())
        self.projector = LlavaUhdV2Projector(config)
        self.freeze_unread_parameters()

    def train(self, mode: bool = True):
        """As `nn.Module.train`; freezes again what is never read, since loading weights makes everything trainable."""
        self.freeze_unread_parameters()
        return super().train(mode)

    def freeze_unread_parameters(self):
        """Freezes what comes after the hidden state that is read: it is kept for export, but never runs."""
        read = {self.vision_tower.embeddings, *tower_layers(self.vision_tower)[: self.num_read_layers]}
        if hasattr(self.vision_tower, "pre_layrnorm"):
            read.add(self.vision_tower.pre_layrnorm)
        used = {parameter for module in read for parameter in module.parameters()}
        used.discard(getattr(self.vision_tower.embeddings, "mask_token", None))
        for parameter in self.vision_tower.parameters():
            if parameter not in used:
                parameter.requires_grad_(False)

    def run_layers(self, state: torch.Tensor, every_state: bool = False, **kwargs) -> list[torch.Tensor]:
        """The hidden state of the tower that is read, or all up to it.

        Args:
            state: (v, prefix + n, c), the embeddings.
            every_state: whether to return all hidden states, from the first.
            kwargs: handed to the tower's layers.

        Returns:
            Each (v, prefix + n, c).
        """
        states = [state]
        for layer in tower_layers(self.vision_tower)[: self.num_read_layers]:
            state = layer(state, attention_mask=None, **kwargs)
            states = [*states, state] if every_state else [state]
        return states

    def encode_views(
        self, views: torch.Tensor, every_state: bool = False, together: bool = False, **kwargs
    ) -> list[torch.Tensor]:
        """Runs the tower on views of one size: embeddings at once, so that positions are resized only once, and layers
        on as many views at a time as memory and the device's caches take.

        Args:
            views: (v, 3, patch * h, patch * w), normalised.
            every_state: whether to return all hidden states, not the one that is read alone.
            together: whether to run all views at once.
            kwargs: handed to the tower's layers.

        Returns:
            The hidden states without class token, each (v, h * w, c).
        """
        tower, prefix = self.vision_tower, num_prefix_tokens(self.vision_tower)
        state = embed_views(tower, views)
        if hasattr(tower, "pre_layrnorm"):
            state = tower.pre_layrnorm(state)
        patches = state.shape[1] - prefix
        if together or is_torchdynamo_exporting():  # an exported program may be for any number of views
            chunks = [state]
        else:
            chunks = state.split(views_at_a_time(tower.config, patches, state.itemsize, views.device.type))
        hidden_states = [self.run_layers(chunk, every_state, **kwargs) for chunk in chunks]
        return [torch.cat(states)[:, prefix:] for states in zip(*hidden_states, strict=True)]

    def project(self, states: list[torch.Tensor], views: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The tokens of views of several sizes: (v, h * w, c) and (v, 3, patch * h, patch * w) a size -> (v, q, d)."""
        # the tower may be kept in another precision than the projector, to train one of them
        dtype = self.projector.window_attention.queries.dtype
        grids = [(size.shape[-2] // self.patch_size, size.shape[-1] // self.patch_size) for size in views]
        features = [state.mT.unflatten(2, grid).to(dtype) for state, grid in zip(states, grids, strict=True)]
        return self.projector(features, views)

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
        layers = tower_layers(self.vision_tower)[: self.num_read_layers]
        with record_attentions(layers, output_attentions) as attentions:
            hidden_states = [
                self.encode_views(batch, output_hidden_states, together=output_attentions, **kwargs)
                for batch in batches
            ]
        projected = self.project([states[-1] for states in hidden_states], batches)

        image_tokens: list[list] = [[None] * len(plan.view_sizes) for plan in plans]
        states: list[list] = [[None] * len(plan.view_sizes) for plan in plans]
        for size, size_tokens, size_states in zip(patches, projected, hidden_states, strict=True):
            kept = torch.stack(size_states, dim=1)
            # apart at once: the gradient of each view by itself would be as large as that of all
            for (image, place), view, state in zip(places[size], size_tokens.unbind(), kept.unbind(), strict=True):
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
