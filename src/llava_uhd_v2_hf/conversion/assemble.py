# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Builds a checkpoint to be trained, from a vision tower and a language model.

The projector is new, as the model itself initialises it, unless its files are given: the up-sampler's pre-training
file, ours (`llava-uhd-v2 train vdim`) or the authors', and the authors' projector after stage 1. Where both have a
tensor, the projector's is taken.
"""

import importlib.util
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import IMAGE_PROCESSOR_NAME

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from ..utils.atomic import PARTIAL, atomic_folder, check_free_space, prepare_folder
from ..utils.errors import file_errors
from ..utils.json_files import read_json
from .chat_templates import ChatTemplate, choose_chat_template, end_tokens
from .config_checks import check_config_sizes, check_config_values, check_model_size, config_errors
from .convert import choose_dtype, converted_tensor
from .output_folder import (
    SPARE_BYTES,
    names_by_value,
    small_files,
    write_record,
)
from .processor_files import (
    IMAGE_TOKEN,
    build_generation_config,
    build_processor,
    copy_sentencepiece,
    gguf_options,
    load_tokenizer,
    separator_ids,
)
from .projector_map import PROJECTOR, UPSAMPLER, VDIM_PREFIX, VDIM_UNUSED, projector_rules
from .released_defaults import MAX_SLICES, ROW_SEPARATOR_ID, SLICE_SEPARATOR_ID
from .rules import Rule
from .sources import Source, open_source, repositories
from .stored_tensors import FileStates
from .weight_files import LazyTensor, LoadedWeights, WeightFiles, in_memory, total_size, write_shards
from .weight_map import (
    TensorMismatchError,
    model_shapes,
    reason_to_leave_out,
    rule_problems,
    with_rows,
)


TOWER = "model.visual.vision_tower."
TEXT = "model.language_model."
OUR_VDIM = ("stages.", "fixups.")  # how names begin in the file of `llava-uhd-v2 train vdim`
BUFFERS = ("*.position_ids", "*.inv_freq")  # computed, though some files hold them


@dataclass(frozen=True)
class AssemblyOptions:
    """Pre-trained parts and shape of the checkpoint that [`assemble`] builds.

    Args:
        vdim: pre-training file of the up-sampler: vdim.safetensors of `llava-uhd-v2 train vdim`, or the authors'.
        projector: the authors' projector after stage 1.
        levels: of the pyramid.
        upsampler: how features are up-sampled: guided by the pixels, or `"bilinear"` (paper table 3).
        query_grid: (rows, columns) of tokens of a view.
        num_query_sets: sets of queries: 4 in the released checkpoints, 1 in the paper.
        max_slices: of an image, by default: 9 in the released checkpoints, 6 in the paper.
        token_layout: order of an image's tokens.
        row_separator_id: token of the text model whose embedding ends a row; None for its newline, or for that of the
            released checkpoints with a `projector`, which was trained with it.
        slice_separator_id: token of the text model whose embedding separates slices; None for its comma, likewise.
        chat_template: `"own"`, the text model's; `"vicuna"`, `"qwen2"`, `"plain"`; or a file in Jinja. None for the
            text model's, or where it has none that can be used, that of the released checkpoint of its type.
        dtype: of all weights; by default that of the text model's.
        seed: of the new weights' random numbers.
    """

    vdim: Path | None = None
    projector: Path | None = None
    levels: tuple[int, ...] = (0, 1, 2)
    upsampler: str = "vdim"
    query_grid: tuple[int, int] = (12, 12)
    num_query_sets: int = 4
    max_slices: int = MAX_SLICES
    token_layout: Literal["spatial", "sequential"] = "spatial"
    row_separator_id: int | None = None
    slice_separator_id: int | None = None
    chat_template: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    seed: int = 0

    def projector_values(self) -> dict[str, Any]:
        """Returns the keys of `projector_config` in config.json."""
        return {
            "levels": list(self.levels),
            "upsampler": self.upsampler,
            "query_grid": list(self.query_grid),
            "num_query_sets": self.num_query_sets,
        }

    def layout_values(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Returns the keys of config.json that say how tokens are ordered and separated."""
        row, slice_ = self.row_separator_id, self.slice_separator_id
        if None in (row, slice_):
            released = (ROW_SEPARATOR_ID, SLICE_SEPARATOR_ID)
            own_row, own_slice = separator_ids(tokenizer) if self.projector is None else released
            row, slice_ = own_row if row is None else row, own_slice if slice_ is None else slice_
        return {"token_layout": self.token_layout, "row_separator_id": row, "slice_separator_id": slice_}

    def recorded(self) -> dict[str, Any]:
        """Returns the options that conversion.json lists, as given; files are among its sources."""
        names = ("token_layout", "row_separator_id", "slice_separator_id", "max_slices", "dtype", "seed")
        return self.projector_values() | {name: getattr(self, name) for name in names}


def assemble(vision_tower: str | Path, text_model: str | Path, output: Path, options: AssemblyOptions) -> None:
    """Builds a checkpoint in the folder `output`.

    Args:
        vision_tower: folder or Hub id of a CLIP (whole, or its vision part), SigLIP or DINOv2 model.
        text_model: folder or Hub id of a causal language model and its tokenizer; or a GGUF file that transformers
            loads, or a folder that has one and no config.json.
        output: folder to write; it must not exist, or be empty.
        options: pre-trained parts and shape.

    Raises:
        ModuleNotFoundError: if the text model is a GGUF file, and gguf is not installed.
        OSError: if a Hub id can't be downloaded, or `output` does not fit on its disk.
        ValueError: if `output` is in use, or a part is missing, unreadable, not supported
            or does not fit the others. Nothing is left in `output` then.
    """
    output = output.resolve()
    prepare_folder(output)
    tower, text = open_source(vision_tower), open_source(text_model)
    checkpoints = {"vision_tower": tower, "text_model": text}
    config, tokenizer, text_rows = build_assembled_config(tower, text, options)
    template = choose_chat_template(tokenizer, config.text_config.model_type, options.chat_template)
    tokenizer.chat_template = template.source
    states = FileStates(path for checkpoint in checkpoints.values() for path in _small_files(checkpoint))
    for checkpoint in checkpoints.values():
        checkpoint.fetch_weights()
    parts = {"vision_tower": WeightFiles.from_folder(tower.folder), "text_model": open_text_weights(text)}
    shapes = checked_shapes(config, text_rows, parts, checkpoints)
    files, rules = open_parts(parts, options.vdim, options.projector, shapes, text_rows, config)
    text_names = {name for rule in rules["text_model"] for name in rule.released}
    config.dtype = choose_dtype({name: files["text_model"].dtypes[name] for name in text_names}, options.dtype)
    new = {"initialised": initial_projector(config, options.seed), "vision_tower": load_tower(tower.folder, config)}
    tensors, origins = gather_tensors(new, files, rules, shapes, config.dtype)
    check_free_space(output, total_size(tensors, config.dtype) + SPARE_BYTES)
    print(describe_format(template, config, tokenizer))
    print(", ".join(f"{count} tensors: {origin}" for origin, count in Counter(origins.values()).items()) + ".")

    with atomic_folder(output, "config.json") as partial:
        hashes = write_shards(partial, {name: tensors[name] for name in shapes}, config.dtype)
        values_from = text.folder if text.gguf_file is None else None
        ends = [tokenizer.convert_tokens_to_ids(token) for token in end_tokens(template.source, tokenizer)]
        build_generation_config(values_from, config, tokenizer, text_rows, ends).save_pretrained(partial)
        values = {"max_slices": options.max_slices, **_normalisation(tower.folder)}
        build_processor(config, tokenizer, **values).save_pretrained(partial)
        if text.gguf_file is None:
            copy_sentencepiece(text.folder, partial)
        config.to_json_file(partial / f"config.json{PARTIAL}")
        write_record(
            partial,
            command="llava-uhd-v2 assemble",
            options=options.recorded() | {"chat_template": template.name},
            sources=_source_files(files, checkpoints),
            hashes=hashes,
            repositories=repositories(checkpoints),
            initialised=names_by_value(origins).get("initialised", []),
            states=[states, *(weights.states for weights in files.values())],
        )
    print(f"Saved in {output}.")


def build_assembled_config(
    tower: Source, text: Source, options: AssemblyOptions
) -> tuple[LlavaUhdV2Config, PreTrainedTokenizerBase, int]:
    """Builds the configuration and the tokenizer, before any weights are downloaded or read.

    Returns:
        Our configuration, the tokenizer with the image token, and the rows of the language model's own embeddings.

    Raises:
        OSError: if a Hub id can't be downloaded, or `output` does not fit on its disk.
        ValueError: if a part is not supported, or has no tokenizer that can be read.
    """
    check_config_values(options.projector_values(), "the options")
    vision_config, text_config = _load_config(tower, "vision_config"), _load_config(text)
    if type(text_config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"Expected a causal language model in {text.name}, but its configuration says "
            f"`model_type`={text_config.model_type!r}; give the folder, Hub id or GGUF file of one."
        )
    for checkpoint in (tower, text):
        checkpoint.fetch_small_files()
    tokenizer = load_tokenizer(text.folder, text_config, text.gguf_file)
    text_rows = text_config.vocab_size
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    text_config.vocab_size = max(text_rows, image_token_id + 1)
    config = LlavaUhdV2Config(
        vision_config=vision_config,
        text_config=text_config,
        projector_config=options.projector_values(),
        image_token_id=image_token_id,
        architectures=[LlavaUhdV2ForConditionalGeneration.__name__],
        **options.layout_values(tokenizer),
    )
    return config, tokenizer, text_rows


def describe_format(template: ChatTemplate, config: LlavaUhdV2Config, tokenizer: PreTrainedTokenizerBase) -> str:
    """Says which chat template and separators were taken."""
    chosen = template.name if not template.reason else f"{template.name}. {template.reason}".rstrip(".")
    row, slice_ = (
        f"{tokenizer.decode([token])!r} ({token})" for token in (config.row_separator_id, config.slice_separator_id)
    )
    return f"Chat template: {chosen}.\nRows end with {row}, slices with {slice_}."


def _source_files(files: dict[str, WeightFiles | LoadedWeights], checkpoints: dict[str, Source]) -> dict[str, Path]:
    """Returns every file that was read, by its part and name."""
    sources = {f"{part}/{path.name}": path for part, weights in files.items() for path in weights.paths}
    for part, checkpoint in checkpoints.items():
        sources |= {f"{part}/{path.name}": path for path in _small_files(checkpoint)}
    return sources


def _small_files(checkpoint: Source) -> list[Path]:
    """Returns configuration and tokenizer files; none of a GGUF file's folder, which are not part of it."""
    return [] if checkpoint.gguf_file is not None else small_files(checkpoint.folder)


def checked_shapes(
    config: LlavaUhdV2Config,
    text_rows: int,
    parts: dict[str, WeightFiles | LoadedWeights],
    checkpoints: dict[str, Source],
) -> dict[str, list[int]]:
    """Returns the shapes of our tensors, once the sizes in the parts' configurations fit the parts' weights.

    Args:
        config: of the model.
        text_rows: of the embeddings of the language model as it is.
        parts: weights of vision tower and language model.
        checkpoints: where they are from.

    Raises:
        ValueError: if they don't.
    """
    places = {part: str(_config_path(checkpoint)) for part, checkpoint in checkpoints.items()}
    tower, text = (parts[part].shapes for part in ("vision_tower", "text_model"))
    check_config_sizes(config.vision_config.to_dict(), tower, places["vision_tower"])
    check_config_sizes(config.text_config.to_dict() | {"vocab_size": text_rows}, text, places["text_model"])
    shapes = model_shapes(config)
    of_tower = {name: shape for name, shape in shapes.items() if name.startswith(TOWER)}
    check_model_size(of_tower, tower, places["vision_tower"])
    return shapes


def open_parts(
    parts: dict[str, WeightFiles | LoadedWeights],
    vdim: Path | None,
    projector: Path | None,
    shapes: dict[str, list[int]],
    text_rows: int,
    config: LlavaUhdV2Config,
) -> tuple[dict[str, WeightFiles | LoadedWeights], dict[str, list[Rule]]]:
    """Opens the files of the other parts; returns those of all, and the rules for what is read tensor by tensor.

    Args:
        parts: weights of vision tower and language model.
        vdim, projector: of [`assemble`].
        shapes: of our tensors.
        text_rows: of the embeddings of the language model as it is.
        config: of the model.

    Raises:
        ValueError: if a part is missing or unreadable, or doesn't fit the others.
    """
    files = dict(parts)
    rules = {"text_model": text_rules(files["text_model"].shapes, with_rows(shapes, text_rows), config.text_config)}
    if vdim is not None:
        files["vdim"] = WeightFiles([vdim], entry=None if vdim.suffix == ".safetensors" else "state_dict")
        rules["vdim"] = vdim_rules(files["vdim"].shapes, shapes, config)
    if projector is not None:
        files["projector"] = WeightFiles([projector])
        rules["projector"] = released_projector_rules(files["projector"].shapes, shapes, config)
    return files, rules


def open_text_weights(text: Source) -> WeightFiles | LoadedWeights:
    """Opens the weights of the language model; those of a GGUF file are dequantised into memory, in float32."""
    if text.gguf_file is None:
        return WeightFiles.from_folder(text.folder)
    load = partial(AutoModelForCausalLM.from_pretrained, text.folder, gguf_file=text.gguf_file)
    return LoadedWeights([text.folder / text.gguf_file], lambda: load().state_dict())


def gather_tensors(
    new: dict[str, dict[str, torch.Tensor]],
    files: dict[str, WeightFiles | LoadedWeights],
    rules: dict[str, list[Rule]],
    shapes: dict[str, list[int]],
    dtype: torch.dtype,
) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Returns every tensor of the model and its part, both by name; a later part replaces an earlier one."""
    tensors: dict[str, LazyTensor] = {}
    origins: dict[str, str] = {}
    for origin, part in new.items():
        for name, tensor in part.items():
            tensors[name], origins[name] = in_memory(name, tensor), origin
    for origin, part_rules in rules.items():
        for rule in part_rules:
            for name in rule.ours:
                tensors[name] = converted_tensor(files[origin], rule, name, shapes[name], dtype)
                origins[name] = origin
    return tensors, origins


def _load_config(checkpoint: Source, part: str | None = None) -> PreTrainedConfig:
    path = _config_path(checkpoint)
    if checkpoint.gguf_file is None:
        check_config_values(read_json(path), str(path))
    elif importlib.util.find_spec("gguf") is None:
        raise ModuleNotFoundError(f"{path} is a GGUF file, which gguf reads.", name="gguf")
    values = gguf_options(checkpoint.gguf_file)
    with config_errors(str(path)):
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, **values)
    config = getattr(config, part, config) if part else config
    config.dtype = None
    return config


def _config_path(checkpoint: Source) -> Path:
    return checkpoint.folder / (checkpoint.gguf_file or "config.json")


def _normalisation(vision_tower: Path) -> dict[str, Any]:
    """Reads mean and standard deviation of the pixels that the tower was trained on, where its folder has them."""
    path = vision_tower / IMAGE_PROCESSOR_NAME
    values = read_json(path) if path.is_file() else {}
    return {key: values[key] for key in ("image_mean", "image_std") if key in values}


def _refuse(part: str, problems: list[str]) -> None:
    if problems:
        raise TensorMismatchError(f"The tensors of {part} do not fit", problems)


def load_tower(folder: Path, config: LlavaUhdV2Config) -> dict[str, torch.Tensor]:
    """Loads the vision tower by its own class, which knows the names in older files; returns its tensors by our names.

    Raises:
        ValueError: if a tensor is missing or of the wrong shape.
    """
    with file_errors(folder, "can't be loaded"):
        tower, report = MODEL_MAPPING[type(config.vision_config)].from_pretrained(
            folder, config=config.vision_config, dtype="auto", output_loading_info=True
        )
    _refuse("the vision tower", [f"missing: `{name}`" for name in sorted(report["missing_keys"])])
    return {TOWER + name: tensor for name, tensor in tower.state_dict().items()}


def text_rules(
    text_shapes: dict[str, list[int]], shapes: dict[str, list[int]], text_config: PreTrainedConfig
) -> list[Rule]:
    """Returns rules for the language model, by the names of its own class.

    Raises:
        ValueError: if a tensor is missing, unknown or of the wrong shape.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(text_config)
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    prefixes = ((TEXT, f"{model.base_model_prefix}."), ("lm_head.", f"{head}."))
    rules = [
        Rule((text + name.removeprefix(ours),), (name,))
        for name in shapes
        for ours, text in prefixes
        if name.startswith(ours)
    ]
    tied = {f"{head}.weight"} if text_config.tie_word_embeddings else set()
    _refuse("the text model", rule_problems(rules, text_shapes, shapes) + _unknown(text_shapes.keys() - tied, rules))
    return rules


def vdim_rules(
    vdim_shapes: dict[str, list[int]], shapes: dict[str, list[int]], config: LlavaUhdV2Config
) -> list[Rule]:
    """Returns rules for the up-sampler's pre-training file, ours or the authors', without what served training alone.

    Raises:
        ValueError: if a tensor is missing, unknown or of the wrong shape.
    """
    if any(name.startswith(OUR_VDIM) for name in vdim_shapes):
        rules = [Rule((name.removeprefix(UPSAMPLER),), (name,)) for name in shapes if name.startswith(UPSAMPLER)]
    else:
        ours, released = VDIM_PREFIX
        rules = [
            Rule(tuple(ours + name.removeprefix(released) for name in rule.released), rule.ours, rule.operation)
            for rule in projector_rules(config.projector_config)
            if rule.ours[0].startswith(UPSAMPLER)
        ]
    found = {name for name in vdim_shapes if not any(fnmatchcase(name, pattern) for pattern in VDIM_UNUSED)}
    _refuse("the VDIM file", rule_problems(rules, vdim_shapes, shapes) + _unknown(found, rules))
    return rules


def released_projector_rules(
    projector_shapes: dict[str, list[int]], shapes: dict[str, list[int]], config: LlavaUhdV2Config
) -> list[Rule]:
    """Returns rules for the projector after stage 1; what is never used is left out.

    Raises:
        ValueError: if a tensor is missing, unknown or of the wrong shape.
    """
    projector = config.projector_config
    rules = [rule for rule in projector_rules(projector) if shapes.keys() >= set(rule.ours)]
    found = {name for name in projector_shapes if not reason_to_leave_out(name, projector)}
    _refuse("the projector", rule_problems(rules, projector_shapes, shapes) + _unknown(found, rules))
    return rules


def _unknown(names: Set[str], rules: list[Rule]) -> list[str]:
    taken = {name for rule in rules for name in rule.released}
    return [
        f"unknown: `{name}`"
        for name in sorted(names - taken)
        if not any(fnmatchcase(name, pattern) for pattern in BUFFERS)
    ]


def initial_projector(config: LlavaUhdV2Config, seed: int) -> dict[str, torch.Tensor]:
    """Returns the tensors of a new projector, by name, as the model itself initialises them."""
    with torch.device("meta"):
        model = LlavaUhdV2ForConditionalGeneration(config)
    projector = model.model.visual.projector.float().to_empty(device="cpu")
    for parameter in projector.parameters():
        nn.init.constant_(parameter, float("nan"))  # what the model forgets to initialise is refused when written
    torch.manual_seed(seed)
    with torch.no_grad():
        projector.reset_parameters()
    return {PROJECTOR + name: tensor for name, tensor in projector.state_dict().items()}


__all__ = ["AssemblyOptions", "assemble"]
