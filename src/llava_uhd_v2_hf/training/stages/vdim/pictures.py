# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Pictures of a VDIM pre-training: the pyramid while it is learned, and the curves of the losses."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from ....data.normalisation import NORMALISATIONS
from ....pictures.canvas import (
    save_picture,
)
from ....pictures.feature_maps import draw_rows, pyramid_row
from ...curves import CURVES_NAME, save_curves
from .recipe import VdimRecipe


class VdimPictures(TrainerCallback):
    """Draws the pyramids of a few images, and the losses, every so many steps and at the end.

    Args:
        trainer: whose model is drawn, and whose TensorBoard gets the pictures too, if it has one.
        recipe: says how often, and the normalisation.
        images: name and (3, s, s) pixels, normalised.
        folder: where pyramid-000500.png and losses.png go.
    """

    def __init__(self, trainer: Trainer, recipe: VdimRecipe, images: list[tuple[str, torch.Tensor]], folder: Path):
        self.trainer, self.recipe, self.images, self.folder = trainer, recipe, images, folder

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        every = self.recipe.pictures.every
        if every and state.global_step % every == 0 and state.global_step < state.max_steps:
            self.draw(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.draw(state)

    def draw(self, state: TrainerState) -> None:
        """Writes the pictures; on the first process alone."""
        if not state.is_world_process_zero:
            return
        save_losses(state.log_history, self.folder / CURVES_NAME)
        if not self.images:
            return
        picture = self.draw_pyramids()
        save_picture(picture, self.folder / f"pyramid-{state.global_step:06d}.png")
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_image("pyramid", np.asarray(picture), state.global_step, dataformats="HWC")

    @torch.no_grad()
    def draw_pyramids(self) -> Image.Image:
        """One row an image."""
        model, rows = self.trainer.model, []
        mean, std = NORMALISATIONS[self.recipe.data.normalisation]
        training = model.training
        model.eval()
        for _, square in self.images:
            pixels = square[None].to(self.trainer.args.device)
            rows.append(pyramid_row(model.objective.upsampler, model.features(pixels), pixels, mean, std))
        model.train(training)
        return draw_rows(rows)


def save_losses(log_history: list[dict[str, float]], path: Path) -> None:
    """Draws the loss and its parts over the steps, as they were logged."""
    parts = {name for entry in log_history for name in entry if name.startswith(("rec_", "crf_"))}
    save_curves(log_history, ["loss", *sorted(parts)], path)
