# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Converts a LoRA folder of the authors' code to a PEFT adapter of our model.

The source holds adapter_config.json, adapter_model.safetensors or .bin, and non_lora_trainables.bin where parts were
trained in full. The base is our checkpoint that it was trained on, converted or assembled. The output is for
`PeftModel.from_pretrained(model, OUTPUT)` and has the base's processor; parts trained in full are its
`modules_to_save`.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..inference.checkpoints import lasting_name
from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from ..utils.atomic import PARTIAL, atomic_folder, check_free_space, prepare_folder
from ..utils.json_files import read_json
from ..utils.plain_names import check_inside
from .config_checks import check_config_sizes, config_errors
from .convert import converted_tensor, widest_dtype
from .export import read_config
from .output_folder import (
    SPARE_BYTES,
    names_by_value,
    small_files,
    write_json,
    write_record,
)
from .processor_files import PROCESSOR_FILES
from .rules import Rule
from .sources import Source, open_source, repositories
from .stored_tensors import FileStates
from .weight_files import LazyTensor, WeightFiles, stored_tensor, total_size, write_file
from .weight_map import (
    PREFIXES,
    TensorMismatchError,
    build_rules,
    model_shapes,
    reason_to_leave_out,
    rule_problems,
    with_rows,
)


ADAPTER_CONFIG, ADAPTER_STEM, FULL_PARTS = "adapter_config.json", "adapter_model", "non_lora_trainables.bin"
PEFT_PREFIX = "base_model.model."
TASK_TYPE = "CAUSAL_LM"  # PEFT has none of its own for models that see images
ADAPTER_PARTS = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector")
# Keys of adapter_config.json that name modules or change what a name means, and the one value that is read.
FIXED_VALUES: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "alpha_pattern": {},
    "rank_pattern": {},
    "layers_to_transform": None,
    "layers_pattern": None,
    "modules_to_save": None,
}


def convert_lora(source: Path, base: str | Path, output: Path) -> None:
    """Converts the LoRA folder `source` into the adapter folder `output`.

    Args:
        source: folder that the authors' code saved.
        base: folder or Hub id of our checkpoint that it belongs to.
        output: folder to write; it must not exist, or be empty.

    Raises:
        OSError: if a Hub id can't be downloaded, or `output` does not fit on its disk.
        ValueError: if `output` is in use, or anything in `source` is missing, unreadable,
            unknown, or does not fit `base`. Nothing is left in `output` then.
    """
    source, output = source.resolve(), output.resolve()
    prepare_folder(output)
    values = read_json(source / ADAPTER_CONFIG)
    for key, value in FIXED_VALUES.items():
        if (values.get(key, value) or None) != (value or None):
            raise ValueError(f"`{key}`={values[key]!r} in {ADAPTER_CONFIG} is not supported, only {value!r} is.")
    checkpoint = open_source(base)
    config = read_config(checkpoint)
    checkpoint.fetch_small_files()
    small = FileStates([source / ADAPTER_CONFIG, *small_files(checkpoint.folder)])
    model = _build_base(config, checkpoint)
    adapter = WeightFiles.from_folder(source, (ADAPTER_STEM, ADAPTER_STEM))
    tensors, targets = adapter_tensors(adapter, model)
    dtypes, paths, states = dict(adapter.dtypes), [*adapter.paths], [small, adapter.states]
    rules: list[Rule] = []
    unused: dict[str, str] = {}
    modules: list[str] = []
    if (source / FULL_PARTS).is_file():
        full = WeightFiles([source / FULL_PARTS])
        rules, unused = full_part_rules(full, config)
        dtypes |= {name: full.dtypes[name] for rule in rules for name in rule.released}
        modules = complete_modules(model, {name for rule in rules for name in rule.ours})
        paths += full.paths
        states.append(full.states)
    dtype, shapes = widest_dtype(dtypes), model_shapes(config)
    for rule in rules:
        for name in rule.ours:
            tensors[PEFT_PREFIX + name] = converted_tensor(full, rule, name, shapes[name], dtype)
    check_free_space(output, total_size(tensors, dtype) + SPARE_BYTES)
    print(f"{len(targets)} adapted layers; trained in full: {', '.join(modules) or 'nothing'}.")

    with atomic_folder(output, ADAPTER_CONFIG) as folder:
        hashes = write_file(folder / f"{ADAPTER_STEM}.safetensors", tensors, dtype)
        for path in small_files(checkpoint.folder):
            if path.name in PROCESSOR_FILES:
                check_inside(path, checkpoint.folder)
                shutil.copyfile(path, folder / path.name)
        write_json(
            folder / f"{ADAPTER_CONFIG}{PARTIAL}",
            values
            | {
                "base_model_name_or_path": lasting_name(str(base)),
                "modules_to_save": modules or None,
                "target_modules": targets,
                "task_type": TASK_TYPE,
            },
        )
        write_record(
            folder,
            command="llava-uhd-v2 convert-lora",
            options={"base": Path(base) if checkpoint.revision is None else base},
            sources={path.name: path for path in [*paths, source / ADAPTER_CONFIG]},
            hashes=hashes,
            repositories=repositories({"base": checkpoint}),
            unused=names_by_value(unused),
            states=states,
        )
    print(f"Saved in {output}.")


def _build_base(config: LlavaUhdV2Config, checkpoint: Source) -> LlavaUhdV2ForConditionalGeneration:
    """Builds the base without weights; compares its sizes with those of a folder first, of which names are read."""
    place = str(checkpoint.folder / "config.json")
    if checkpoint.revision is None and any(checkpoint.folder.glob("model*.safetensors*")):
        check_config_sizes(config.to_dict(), WeightFiles.from_folder(checkpoint.folder).shapes, place)
    with config_errors(place), torch.device("meta"):
        return LlavaUhdV2ForConditionalGeneration(config)


def adapter_tensors(
    adapter: WeightFiles, model: LlavaUhdV2ForConditionalGeneration
) -> tuple[dict[str, LazyTensor], list[str]]:
    """Returns the low-rank tensors under our names, and the names of the layers that they adapt.

    Raises:
        TensorMismatchError: if there is a tensor that adapts no linear layer of the language model or vision tower,
            or does not fit the layer.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    tensors, targets, problems = {}, set(), []
    for name, shape in adapter.shapes.items():
        part = next((part for part in ADAPTER_PARTS if name.endswith(part)), "")
        released = name.removeprefix(PEFT_PREFIX).removesuffix(part)
        layer = next(
            (ours + released.removeprefix(prefix) for prefix, ours in PREFIXES if released.startswith(prefix)), ""
        )
        if not part or layer not in layers:
            problems.append(f"unknown: `{name}` {shape}")
            continue
        linear = layers[layer]
        side = {".lora_A.weight": (shape[-1], linear.in_features)}.get(part, (shape[0], linear.out_features))
        if side[0] != side[1]:
            problems.append(f"wrong shape: `{name}` is {shape}, but `{layer}` has {side[1]} channels there")
        tensors[PEFT_PREFIX + layer + part] = stored_tensor(adapter, name)
        targets.add(layer)
    if problems:
        raise TensorMismatchError("The adapter does not fit the model", problems)
    return tensors, sorted(targets)


def full_part_rules(full: WeightFiles, config: LlavaUhdV2Config) -> tuple[list[Rule], dict[str, str]]:
    """Returns rules for the parts that were trained in full, and why the others are left out, by name.

    Raises:
        TensorMismatchError: if a tensor is unknown, of the wrong shape, or comes without others that ours is made of.
    """
    name_of = {name.removeprefix(PEFT_PREFIX): name for name in full.shapes}
    released_shapes = {released: full.shapes[name] for released, name in name_of.items()}
    rows = released_shapes.get("model.embed_tokens.weight", released_shapes.get("lm_head.weight", [0]))[0]
    shapes = model_shapes(config)
    shapes = with_rows(shapes, rows) if rows else shapes
    rules = [
        rule
        for rule in build_rules(shapes, config.projector_config)
        if any(name in released_shapes for name in rule.released)
    ]
    taken = {name for rule in rules for name in rule.released}
    unused = {
        name: reason_to_leave_out(name, config.projector_config) for name in released_shapes if name not in taken
    }
    problems = rule_problems(rules, released_shapes, shapes)
    problems += [f"unknown: `{name_of[name]}`" for name, reason in unused.items() if not reason]
    if problems:
        raise TensorMismatchError(f"The tensors of {FULL_PARTS} do not fit the model", problems)
    renamed = [Rule(tuple(name_of[name] for name in rule.released), rule.ours, rule.operation) for rule in rules]
    return renamed, unused


def complete_modules(model: LlavaUhdV2ForConditionalGeneration, names: set[str]) -> list[str]:
    """Returns the largest modules all of whose tensors are among `names`, and which together hold them all.

    PEFT saves whole modules that it can call, so lists of modules are taken apart.

    Raises:
        ValueError: if a tensor is in no such module.
    """
    modules, left = [], set(names)
    for path, module in model.named_modules():
        own = {f"{path}.{name}" for name, _ in module.named_parameters()}
        if own and own <= left and not isinstance(module, (nn.ModuleDict, nn.ModuleList)):
            modules.append(path)
            left -= own
    if left:
        raise ValueError(
            "PEFT saves whole modules, but of these only a part was trained in full, which has to be merged into a "
            f"checkpoint by the authors' code: {', '.join(sorted(left))}."
        )
    return modules


__all__ = ["convert_lora"]
