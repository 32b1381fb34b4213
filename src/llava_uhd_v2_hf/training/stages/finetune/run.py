# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Stages 1 and 2 (paper 4.1): pre-training of the window attention, and fine-tuning, on transformers' `Trainer`."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from torch import nn
from transformers import AutoProcessor, TrainingArguments, set_seed
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, logging

from ....data.lengths import measure_lengths
from ....data.samples import ConversationDataset
from ....data.streams import ConversationStream
from ....inference.adapter_fit import weights_that_fit
from ....inference.checkpoints import base_of, check_checkpoint, is_adapter, lasting_name
from ....model.chat_templates_llava_uhd_v2 import PLAIN_TEMPLATE
from ....model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from ....model.processing_llava_uhd_v2 import LlavaUhdV2Processor
from ....utils.atomic import replaced_files
from ...adapters import add_adapter, half_dtype, quantization_config, resume_adapter
from ...checkpoints import checkpoint_to_resume, trained_steps
from ...curves import CURVES_NAME, save_curves
from ...data_record import compare_data, facts_of_files
from ...disk_space import DiskSpace
from ...evaluation import HeldOutAnswers
from ...machine import check_loggers, limit_workers
from ...parameter_groups import PartPlan, apply_plan, describe_plan, part_of, parts_of_model, plan_parts
from ...result_folder import stored_dtype, write_model
from ...run_state import (
    FINISHED,
    check_same_recipe,
    is_finished,
    recipe_values,
    share_batch,
    write_recipe,
)
from ...stage import Stage
from .card import write_card
from .recipe import FinetuneRecipe
from .steps import describe_steps
from .trainer import LEARNING_RATE, FinetuneTrainer, NamingCollator


logger = logging.get_logger(__name__)

# what must not change when a training resumes
SAME = (
    *("model", "batch_size", "chat_template", "upsampler_dropout", "parts", "lora", "quantization", "data"),
    *("training.learning_rate", "training.lr_scheduler_type", "training.warmup_steps", "training.weight_decay"),
    *("training.max_grad_norm", "training.max_steps", "training.num_train_epochs", "training.optim"),
    *("training.seed", "training.train_sampling_strategy"),
)
RESULTS = (CONFIG_NAME, ADAPTER_CONFIG_NAME)  # one of them is there when a result is complete
CURVES = ("loss", "grad_norm", LEARNING_RATE, "eval_exact_match")  # those whose names begin so


def prepare_arguments(recipe: FinetuneRecipe) -> TrainingArguments:
    """The recipe's `TrainingArguments`, with what follows from the rest of the recipe and the number of processes.

    Raises:
        ValueError: if the batch can't be divided among the processes, they would mix up gradients, or a logger is not
            installed.
    """
    args = recipe.training
    plugin = args.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 2 and args.world_size > 1:
        raise ValueError(
            "DeepSpeed's ZeRO stage 2 adds up over the processes what gradient comes first with what comes first, and "
            "the order differs where their images have different shapes. Use stage 1 or 3 (zero_stage)."
        )
    check_loggers(args)
    share_batch(args, recipe.batch_size)
    if recipe.data.streaming:  # its order depends on the number of workers
        args.ignore_data_skip = True  # the stream begins where it stopped
    else:
        limit_workers(args)
    return args


def load_model(recipe: FinetuneRecipe, plan: dict[str, PartPlan], args: TrainingArguments) -> nn.Module:
    """The model with gradients for what is trained, which is in float32 also under mixed precision.

    Raises:
        OSError, ValueError: if it is not there or doesn't fit the recipe.
    """
    from_adapter = is_adapter(recipe.model)
    quantization = quantization_config(recipe.quantization, args) if recipe.quantization is not None else None
    base = base_of(recipe.model) if from_adapter else recipe.model
    with weights_that_fit(base):
        model: Any = LlavaUhdV2ForConditionalGeneration.from_pretrained(
            lasting_name(base),  # an adapter stores it
            dtype=torch.float32,
            attn_implementation=recipe.attn_implementation,
            quantization_config=quantization,
        )
    plan = parts_of_model(model, plan)
    upsampler = getattr(model.model.visual.projector, "upsampler", None)  # not every projector has one
    if upsampler is not None and not recipe.upsampler_dropout and "upsampler" not in plan:
        switch_dropout_off(upsampler)
    if quantization is not None:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if from_adapter:
        model = resume_adapter(model, recipe.model, recipe.lora)
    elif recipe.lora is not None:
        model = add_adapter(model, recipe.lora, plan)
    apply_plan(model, plan)
    if quantization is None:
        cast_frozen_weights(model, half_dtype(args))
    return model


def cast_frozen_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Keeps what is frozen of tower and text model in the precision that it is computed in; the projector is small."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and part_of(name) in ("vision_tower", "language_model"):
            parameter.data = parameter.data.to(dtype)


def switch_dropout_off(module: nn.Module) -> None:
    for child in module.modules():
        if isinstance(child, (nn.Dropout, nn.Dropout2d)):
            child.p = 0.0


def load_processors(recipe: FinetuneRecipe) -> tuple[LlavaUhdV2Processor, LlavaUhdV2Processor]:
    """The processor of the result, which cuts images as the training does, and that of the training itself.

    The latter may have another chat template.
    """
    processor = AutoProcessor.from_pretrained(recipe.model)
    if recipe.data.max_slices is not None:
        processor.image_processor.max_slices = recipe.data.max_slices
    training = copy.deepcopy(processor)
    if recipe.chat_template == "plain":
        training.chat_template = PLAIN_TEMPLATE
    return processor, training


def open_data(recipe: FinetuneRecipe, args: TrainingArguments, checkpoint: Path | None) -> Any:
    """The samples of the training; a stream begins behind those before the checkpoint."""
    if not recipe.data.streaming:
        return ConversationDataset(recipe.data, args.seed)
    batches = trained_steps(checkpoint) * args.gradient_accumulation_steps if checkpoint is not None else 0
    return ConversationStream(
        recipe.data,
        args.seed,
        rank=args.process_index,
        world_size=args.world_size,
        num_workers=args.dataloader_num_workers,
        start_batch=batches,
        batch_size=args.per_device_train_batch_size,
    )


def facts_of_data(recipe: FinetuneRecipe, dataset: Any) -> dict[str, Any]:
    """What must not change of the samples, for [`compare_data`]: files of records, and the sizes of image files."""
    paths = [recipe.data.source, *(source.path for source in dataset.sources)]
    images = {"images": dataset.images_crc32} if isinstance(dataset, ConversationDataset) else {}
    return facts_of_files(paths) | images


def open_held_out(
    recipe: FinetuneRecipe, args: TrainingArguments, processor: LlavaUhdV2Processor
) -> HeldOutAnswers | None:
    if recipe.evaluation is None:
        return None
    return HeldOutAnswers(
        ConversationDataset(recipe.evaluation.data, args.seed, processor.image_processor.alpha),
        processor,
        batch_size=args.per_device_eval_batch_size,
        max_new_tokens=recipe.evaluation.max_new_tokens,
        max_slices=recipe.evaluation.data.max_slices,
        samples=recipe.evaluation.samples,
    )


def build_trainer(
    recipe: FinetuneRecipe, stage: Stage, args: TrainingArguments, plan: dict[str, PartPlan], dataset: Any
) -> FinetuneTrainer:
    """
    Args:
        recipe: of the stage.
        stage: says what checkpoints hold.
        args: of [`prepare_arguments`].
        plan: of [`plan_parts`].
        dataset: of [`open_data`].

    Raises:
        OSError, ValueError: if the model, its processor or held-out samples can't be used.
    """
    processor, of_training = load_processors(recipe)
    dataset.alpha = of_training.image_processor.alpha  # the samples were opened before the processor
    data = recipe.data
    collator = NamingCollator(
        of_training,
        max_length=data.max_length,
        max_slices=data.max_slices,
        label_rule=data.label_rule,
        unsupervised=data.unsupervised,
        cut_images=data.cut_images,
    )
    lengths = None
    if args.train_sampling_strategy == "group_by_length" and isinstance(dataset, ConversationDataset):
        lengths = measure_lengths(dataset, of_training, num_workers=args.dataloader_num_workers)
    held_out = open_held_out(recipe, args, of_training)
    model = load_model(recipe, plan, args)
    return FinetuneTrainer(
        model,
        args,
        train_dataset=dataset,
        data_collator=collator,
        callbacks=[DiskSpace()],
        plan=parts_of_model(model, plan),
        processor=processor,
        partial=stage.save == "trained",
        lengths=lengths,
        held_out=held_out,
    )


def save_result(folder: Path, trainer: FinetuneTrainer, recipe: FinetuneRecipe, stage: Stage) -> None:
    """Writes the model, or the adapter, with its card and curves; to be called by every process."""
    accelerator, state = trainer.accelerator, None
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        state = accelerator.get_state_dict(trainer.model_wrapped)
    if not trainer.args.should_save:
        return
    model, history = accelerator.unwrap_model(trainer.model), trainer.state.log_history
    if isinstance(model, PeftModel):
        with replaced_files(folder, ADAPTER_CONFIG_NAME) as staged:
            model.save_pretrained(str(staged), state_dict=state)
            trainer.processor.save_pretrained(staged)
    else:
        model._keys_to_ignore_on_save = None
        vars(model.config).pop("use_cache", None)  # Trainer's
        write_model(folder, model, trainer.processor, stored_dtype(recipe.model), state)
    logged = list(dict.fromkeys(name for entry in history for name in entry if name != LEARNING_RATE))
    names = [name for curve in CURVES for name in logged if name.startswith(curve)]
    save_curves(history, names or ["loss"], folder / CURVES_NAME)
    write_card(folder, trainer, recipe, stage.name)


def push_result(folder: Path, trainer: FinetuneTrainer) -> None:
    """Sends the result to the repository of the training, without the checkpoints and whatever else lies here.

    Raises:
        OSError: if the Hub can't be reached or refuses it.
    """
    trainer.hub_api.upload_folder(
        repo_id=trainer.hub_model_id,
        folder_path=folder,
        commit_message="End of training",
        token=trainer.args.hub_token,
        revision=trainer.args.hub_revision,
    )


def finetune(recipe: FinetuneRecipe, stage: Stage) -> Path:
    """Trains, or resumes from the last checkpoint in the recipe's `training.output_dir`; after its end, does nothing.

    Args:
        recipe: of the training.
        stage: says what checkpoints hold, and is named in the card; `pretrain` and `sft` are those of paper 4.1.

    Returns:
        The folder with the model, or with the adapter. It also has README.md, recipe.yaml, losses.png and the last
        checkpoints.

    Raises:
        Interrupted: after SIGINT or SIGTERM.
        OSError, ValueError: if model, data or recipe can't be used.
    """
    values, args = recipe_values(recipe), prepare_arguments(recipe)
    plan = plan_parts(recipe.parts, args)
    folder = Path(args.output_dir)
    if is_finished(args, RESULTS):
        check_same_recipe(folder, values, SAME)
        logger.warning(FINISHED.format(folder))
        return folder
    check_checkpoint(recipe.model)
    checkpoint = checkpoint_to_resume(args)
    if checkpoint is not None or any((folder / name).exists() for name in RESULTS):
        check_same_recipe(folder, values, SAME)
    if checkpoint is not None:
        logger.warning(f"Resuming from {checkpoint}.")

    set_seed(args.seed)
    dataset = open_data(recipe, args, checkpoint)
    samples = len(dataset) if isinstance(dataset, ConversationDataset) else None
    steps = describe_steps(args, recipe.batch_size, samples)
    trainer = build_trainer(recipe, stage, args, plan, dataset)
    if args.should_save:
        print(describe_plan(trainer.model, trainer.plan))
        print(f"{steps} Slices of an image at most: {trainer.data_collator.max_slices}.", flush=True)
        write_recipe(folder, values)
        compare_data(folder, facts_of_data(recipe, dataset), resumes=checkpoint is not None)
    trainer.run(checkpoint)
    save_result(folder, trainer, recipe, stage)
    if args.push_to_hub and trainer.is_world_process_zero():
        push_result(folder, trainer)
    trainer.save_state()
    trainer.accelerator.wait_for_everyone()
    return folder


__all__ = ["finetune"]
