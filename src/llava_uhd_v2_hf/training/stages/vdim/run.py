# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 0: pre-training the up-sampler with a frozen vision tower (paper 3.2), on transformers' `Trainer`."""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, set_seed
from transformers.utils import logging

from ....inference.towers import load_tower
from ....inference.vdim_file import VDIM_NAME, VdimFacts, save_vdim
from ....model.configuration_llava_uhd_v2 import LlavaUhdV2ProjectorConfig
from ....model.upsamplers_vdim_llava_uhd_v2 import LlavaUhdV2Upsampler
from ...checkpoints import checkpoint_to_resume, trained_steps
from ...data_record import compare_data
from ...machine import check_loggers, limit_workers
from ...run_state import (
    FINISHED,
    check_same_recipe,
    is_finished,
    mean_losses,
    recipe_values,
    share_batch,
    write_recipe,
)
from .card import write_card
from .images import VdimImages, VdimStream, collate, facts_of_images, first_images, open_source, open_stream
from .model import VdimPretraining
from .pictures import VdimPictures
from .recipe import VdimRecipe
from .trainer import FirstSteps, VdimTrainer, read_lines


logger = logging.get_logger(__name__)

SKIPPED_NAME = "skipped.txt"
OPTIMIZERS = {"adam": torch.optim.Adam, "nadam": torch.optim.NAdam}
# what must not change when a training resumes
SAME = (
    *("tower", "vision_feature_layer", "batch_size", "optimizer", "upsampler", "data", "loss"),
    *("training.learning_rate", "training.seed", "training.lr_scheduler_type"),
)
FREE = ("data.max_unreadable",)


def prepare_arguments(recipe: VdimRecipe) -> TrainingArguments:
    """The recipe's `TrainingArguments`, with what follows from the rest of the recipe and the number of processes.

    Raises:
        ValueError: if the batch can't be divided among the processes, or a logger is not installed.
    """
    args = recipe.training
    check_loggers(args)
    share_batch(args, recipe.batch_size)
    args.train_sampling_strategy = "sequential"  # the data set has its own order
    if recipe.data.streaming:
        if args.dataloader_num_workers > 1:
            raise ValueError(
                "A stream is read by one worker in each process; set `training.dataloader_num_workers` to 0 or 1."
            )
        args.ignore_data_skip = True  # the stream begins where it stopped
    else:
        limit_workers(args)
    return args


def open_images(recipe: VdimRecipe, args: TrainingArguments, checkpoint: Path | None) -> tuple[Any, Any]:
    """The source of the images, and the data set of all samples of the training in their order."""
    data, seed = recipe.data, args.seed
    if not data.streaming:
        source = open_source(data)
        return source, VdimImages(source, data, seed, args.max_steps * recipe.batch_size)
    source, share = open_stream(data), recipe.batch_size // args.world_size
    step = trained_steps(checkpoint) if checkpoint is not None else 0
    stream = VdimStream(
        source,
        data,
        seed,
        args.max_steps * share,
        start=step * share,
        rank=args.process_index,
        world_size=args.world_size,
    )
    return source, stream


def save_result(folder: Path, model: VdimPretraining, recipe: VdimRecipe, trainer: Trainer) -> None:
    """Writes the up-sampler and its card."""
    vision, args = model.config.vision_config, trainer.args
    facts = VdimFacts(
        tower=recipe.tower,
        tower_type=vision.model_type,
        channels=vision.hidden_size,
        patch_size=vision.patch_size,
        vision_feature_layer=recipe.vision_feature_layer,
        crop_size=recipe.data.crop_size,
        normalisation=recipe.data.normalisation,
        steps=recipe.upsampler.steps,
        kernel_size=recipe.upsampler.kernel_size,
        guidance_size=recipe.upsampler.guidance_size,
    )
    save_vdim(folder, model.objective.upsampler, facts)
    results = {
        "images": Path(recipe.data.images).name if Path(recipe.data.images).exists() else recipe.data.images,
        "steps": trainer.state.global_step,
        "batch_size": recipe.batch_size,
        "optimizer": recipe.optimizer,
        "learning_rate": args.learning_rate,
        "num_skipped": len(read_lines(folder / SKIPPED_NAME)),
        **mean_losses(trainer.state.log_history),
    }
    write_card(folder, facts, results)


def build_model(recipe: VdimRecipe) -> VdimPretraining:
    """The tower, and a new up-sampler with what is trained beside it.

    Raises:
        OSError, ValueError: if the tower is not there or doesn't fit.
    """
    upsampler = recipe.upsampler
    projector = LlavaUhdV2ProjectorConfig(
        levels=list(range(upsampler.steps + 1)),
        upsampler_kernel_size=upsampler.kernel_size,
        upsampler_guidance_size=upsampler.guidance_size,
        upsampler_dropout=upsampler.dropout,
        fixup_dropout=upsampler.fixup_dropout,
    )
    tower, config = load_tower(recipe.tower, recipe.vision_feature_layer, recipe.data.crop_size)
    module = LlavaUhdV2Upsampler(projector, config.vision_config.hidden_size)
    return VdimPretraining(tower, module, recipe.loss, config)


def build_trainer(model: VdimPretraining, recipe: VdimRecipe, args: TrainingArguments, dataset: Any) -> VdimTrainer:
    """
    Args:
        model: of [`build_model`].
        recipe: says the optimiser, and how many images may be unreadable.
        args: of [`prepare_arguments`].
        dataset: all samples of the training in their order.
    """
    return VdimTrainer(
        model,
        args,
        train_dataset=dataset,
        data_collator=collate,
        optimizer_cls_and_kwargs=(OPTIMIZERS[recipe.optimizer], {"lr": args.learning_rate}),
        callbacks=[FirstSteps(recipe.first_steps, recipe.first_max_grad_norm, args.max_grad_norm)],
        max_unreadable=recipe.data.max_unreadable,
        skipped_file=Path(args.output_dir) / SKIPPED_NAME,
    )


def train_vdim(recipe: VdimRecipe) -> Path:
    """Trains, or resumes from the last checkpoint in the recipe's `training.output_dir`; after its end, does nothing.

    Returns:
        The file with the up-sampler. Beside it are README.md, recipe.yaml, pictures/ and the last checkpoints.

    Raises:
        Interrupted: after SIGINT or SIGTERM.
        OSError, ValueError: if tower, images or recipe can't be used, or the training has to stop.
    """
    values, args = recipe_values(recipe), prepare_arguments(recipe)
    folder = Path(args.output_dir)
    if is_finished(args, [VDIM_NAME]):
        check_same_recipe(folder, values, SAME, free=FREE)
        logger.warning(FINISHED.format(folder))
        return folder / VDIM_NAME
    checkpoint = checkpoint_to_resume(args)
    if checkpoint is not None:
        check_same_recipe(checkpoint.parent, values, SAME, free=FREE)
        logger.warning(f"Resuming from {checkpoint}.")

    set_seed(args.seed)
    model = build_model(recipe)
    source, dataset = open_images(recipe, args, checkpoint)
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    if checkpoint is None and args.should_save:
        (folder / SKIPPED_NAME).unlink(missing_ok=True)
    trainer = build_trainer(model, recipe, args, dataset)
    if args.should_save:
        write_recipe(folder, values)
        compare_data(folder, facts_of_images(source), resumes=checkpoint is not None)
        images = first_images(source, recipe.data, recipe.pictures.count)
        trainer.add_callback(VdimPictures(trainer, recipe, images, pictures))
    trainer.run(checkpoint)
    if args.should_save:
        save_result(folder, model, recipe, trainer)
    trainer.save_state()
    return folder / VDIM_NAME
