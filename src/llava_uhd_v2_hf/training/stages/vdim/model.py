# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What VDIM pre-training runs: the frozen tower, the jittered views, the objective."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ....inference.towers import tower_features
from ....model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ....model.upsamplers_vdim_llava_uhd_v2 import LlavaUhdV2Upsampler
from .draws import draw_jitter, image_dropouts, replace_dropouts
from .losses import VdimObjective, jittered_views
from .recipe import VdimLoss


TOWER = "tower."


class VdimPretraining(nn.Module):
    """The frozen tower and the objective; its state dict is the objective's alone."""

    def __init__(
        self, tower: PreTrainedModel, upsampler: LlavaUhdV2Upsampler, loss: VdimLoss, config: LlavaUhdV2Config
    ):
        super().__init__()
        self.tower = tower.requires_grad_(False)
        self.config = config
        vision = config.vision_config
        self.objective = VdimObjective(upsampler, loss, vision.hidden_size, vision.patch_size)
        replace_dropouts(self.objective)
        self.register_state_dict_post_hook(self._leave_out_tower)
        self.register_load_state_dict_post_hook(self._expect_no_tower)

    @staticmethod
    def _leave_out_tower(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        for name in [name for name in state if name.startswith(prefix + TOWER)]:
            del state[name]

    @staticmethod
    def _expect_no_tower(module: nn.Module, incompatible: Any) -> None:
        incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if not name.startswith(TOWER)]

    def train(self, mode: bool = True) -> "VdimPretraining":
        """As `nn.Module.train`, except for the tower."""
        super().train(mode)
        self.tower.eval()
        return self

    @torch.no_grad()
    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(b, 3, patch * h, patch * w) -> (b, c, h, w)."""
        return tower_features(self.tower, pixels, self.config)

    def forward(self, pixel_values: torch.Tensor, seeds: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            pixel_values: (b, 3, s, s), normalised.
            seeds: (b,), the number from which all that is random about an image is drawn.

        Returns:
            The loss under "loss"; its parts, means over the jitters that have them: "rec_2x", "crf_2x" and so on.
        """
        loss, features, numbers = self.objective.loss, self.features(pixel_values), seeds.tolist()
        size, device = pixel_values.shape[-1], pixel_values.device
        total, parts = torch.zeros((), device=device), dict[str, torch.Tensor]()
        for index in range(loss.jitters):
            draws = draw_jitter(
                numbers,
                index,
                loss,
                channels=features.shape[1],
                levels=self.objective.levels,
                grid=features.shape[-1],
                size=size,
                device=device,
            )
            views = jittered_views(pixel_values, draws.jitters, size, loss.max_pad)
            with image_dropouts(self.objective, numbers, index, device):
                part, values = self.objective(pixel_values, features, self.features(views), draws)
            total = total + part
            for name, value in values.items():
                parts[name] = parts.get(name, 0) + value
        return {"loss": total, **parts}
