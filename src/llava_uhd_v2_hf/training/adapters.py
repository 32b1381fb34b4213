# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""LoRA and QLoRA by PEFT: one adapter folder has the low-rank weights, and the parts that are trained in full."""

import importlib.util
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import AutoProcessor, BitsAndBytesConfig, PreTrainedModel, TrainingArguments
from transformers.utils import ADAPTER_CONFIG_NAME

from ..inference.adapter_fit import weights_that_fit
from ..inference.checkpoints import check_checkpoint, is_adapter
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from .adapter_settings import LoraSettings, QuantizationSettings
from .parameter_groups import part_of
from .result_folder import stored_dtype, write_model


TEXT_MODEL = "model.language_model"
VISION = "model.visual"
PROJECTOR = f"{VISION}.projector"


def add_adapter(model: PreTrainedModel, lora: LoraSettings, trained: Collection[str]) -> PeftModel:
    """Puts low-rank adapters into a model, and copies of the parts that are trained in full.

    Args:
        model: the checkpoint's.
        lora: says where.
        trained: parts that are trained, see [`plan_parts`].

    Raises:
        ValueError: if there is no such layer.
    """
    targets = lora_targets(model, lora)
    adapted = [name for name, _ in model.named_modules() if re.fullmatch(targets, name)]
    if not adapted:
        raise ValueError(f"`lora.targets`={lora.targets!r} names no layer of the model.")
    in_full = set(trained) - {part_of(f"{name}.weight") for name in adapted}
    copied = {module for part in in_full for module in part_modules(model, part)}
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=sorted(name for name in copied if not _is_inside(name, copied)) or None,
        task_type=TaskType.CAUSAL_LM,  # PEFT has none of its own for models that see images
    )
    return get_peft_model(model, config)


def lora_targets(model: nn.Module, lora: LoraSettings) -> str:
    """A regular expression for the layers that are adapted; lists of names are confined to the text model."""
    if isinstance(lora.targets, str):
        return lora.targets
    layers = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    linear = {name.rpartition(".")[2] for name in layers if name.startswith(f"{TEXT_MODEL}.")}
    return rf"{re.escape(TEXT_MODEL)}\..*\.({'|'.join(sorted(lora.targets or linear))})"


def part_modules(model: nn.Module, part: str) -> Iterator[str]:
    """The modules that hold a part: PEFT copies whole modules, and none that can't be called."""
    if part == "fixups":
        fixups = f"{PROJECTOR}.upsampler.fixups."
        yield from (name for name, _ in model.named_modules() if name.startswith(fixups))
    elif part == "language_model":
        yield from (TEXT_MODEL, "lm_head")
    elif part == "vision_tower":
        yield f"{VISION}.vision_tower"
    elif part == "projector":
        yield PROJECTOR
    else:
        yield f"{PROJECTOR}.{'upsampler' if part == 'upsampler' else 'window_attention'}"


def _is_inside(name: str, modules: Collection[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def resume_adapter(model: PreTrainedModel, adapter: str, lora: LoraSettings | None) -> PeftModel:
    """Loads an adapter into its checkpoint, to train it further.

    Raises:
        ValueError: if the recipe's `lora` is not the adapter's, or the adapter doesn't fit the checkpoint.
    """
    config = PeftConfig.from_pretrained(adapter)
    config.base_model_name_or_path, config.task_type = model.name_or_path, TaskType.CAUSAL_LM
    with weights_that_fit(adapter):
        adapted = PeftModel.from_pretrained(model, adapter, is_trainable=True, config=config)
    if lora is not None:
        theirs = {"r": config.r, "alpha": config.lora_alpha, "dropout": config.lora_dropout}
        differing = [f"{name} is {value}" for name, value in theirs.items() if value != getattr(lora, name)]
        if differing or (lora.targets is not None and lora_targets(model, lora) != config.target_modules):
            raise ValueError(
                f"The adapter {adapter} has other settings than `lora` ({', '.join(differing) or 'targets'}); set "
                "`lora`=null to keep its own."
            )
    return adapted


def quantization_config(settings: QuantizationSettings, args: TrainingArguments) -> BitsAndBytesConfig:
    """
    Raises:
        ValueError: if bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            "`quantization` needs bitsandbytes, which is not installed: pip install bitsandbytes, or set "
            "`quantization`=null."
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.type,
        bnb_4bit_use_double_quant=settings.double,
        bnb_4bit_compute_dtype=half_dtype(args),
    )


def half_dtype(args: TrainingArguments) -> torch.dtype:
    """That of the training's mixed precision; float32 without it."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32


def merge_adapter(adapter: str, output: Path) -> None:
    """Writes the checkpoint of an adapter with the adapter in its weights; the numbers are those of the two together.

    Args:
        adapter: folder or Hub id of the adapter.
        output: folder to write; it must not exist, or be empty.

    Raises:
        OSError, ValueError: if the adapter or its checkpoint can't be read, or `output` is in use. Nothing is left in
            `output` then.
    """
    if not is_adapter(adapter):
        raise ValueError(
            f"Expected a folder or Hub id of an adapter, got {adapter}: {ADAPTER_CONFIG_NAME} is missing."
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not an empty folder; choose another name or remove it.")
    base, processor = check_checkpoint(adapter), AutoProcessor.from_pretrained(adapter)
    with weights_that_fit(adapter):
        model = LlavaUhdV2ForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    write_model(output, merged, processor, stored_dtype(base))


__all__ = [
    "add_adapter",
    "half_dtype",
    "merge_adapter",
    "quantization_config",
    "resume_adapter",
]
