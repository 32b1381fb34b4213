# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Writes our checkpoint in the layout of the authors' released ones, so that their code loads it.

Every tensor that the authors' loader expects is written. Those that are used are ours under their names; those that
are never used are filled, and a table says how. Nothing is rounded: the dtype stays (float32 where there are several),
and converting the result back gives our checkpoint bit for bit.
"""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import init
from transformers import AutoTokenizer, GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.window_attention_llava_uhd_v2 import sincos_position_table
from ..utils.atomic import PARTIAL, atomic_folder, check_free_space, prepare_folder
from ..utils.errors import file_errors
from ..utils.json_files import read_json
from .config_checks import check_config_sizes, check_config_values, config_errors
from .convert import new_rows, widest_dtype
from .output_folder import (
    SPARE_BYTES,
    names_by_value,
    small_files,
    write_json,
    write_record,
)
from .processor_files import (
    SENTENCEPIECE_NAME,
    TOKENIZER_FILES,
    check_text_sizes,
    copy_sentencepiece,
    remove_image_token,
    unspeakable_ids,
)
from .projector_map import TOWER_COPY, has_tower_copy, unused_fillings
from .released_config import released_values
from .released_defaults import KNOWN_VISION_TOWER
from .rules import Rule
from .sources import Source, open_source, repositories
from .stored_tensors import FileStates
from .weight_files import LazyTensor, WeightFiles, in_memory, total_size, write_shards
from .weight_map import (
    INPUT_EMBEDDINGS,
    OUTPUT_EMBEDDINGS,
    TensorMismatchError,
    build_rules,
    model_shapes,
    with_rows,
)


SEED = 0  # of the random numbers in tensors that are never used
INITIALIZER_RANGE = 0.02
OURS = "ours, under another name"


def export_checkpoint(source: str | Path, output: Path, *, vision_tower: str = f"openai/{KNOWN_VISION_TOWER}") -> None:
    """Writes our checkpoint `source` in the released layout into the folder `output`.

    Rows of the embeddings that a conversion added and nothing has trained are left out again.

    Args:
        source: folder or Hub id of our checkpoint.
        output: folder to write; it must not exist, or be empty.
        vision_tower: `mm_vision_tower`, from which the released code reads the tower's shape.

    Raises:
        OSError: if a Hub id can't be downloaded, or `output` does not fit on its disk.
        ValueError: if `output` is in use, `source` is not a complete checkpoint of ours,
            or the released code cannot compute such a model. Nothing is left in `output` then.
    """
    output = output.resolve()
    prepare_folder(output)
    checkpoint = open_source(source)
    config = read_config(checkpoint)
    checkpoint.fetch_weights()
    folder = checkpoint.folder
    states = FileStates(small_files(folder))
    weights = WeightFiles.from_folder(folder)
    check_config_sizes(config.to_dict(), weights.shapes, str(folder / "config.json"))
    refuse_other_tensors(weights, model_shapes(config))
    config.dtype = widest_dtype(weights.dtypes)
    rows = count_source_rows(weights, config)
    values = released_values(config, rows, vision_tower)
    tensors, origins = exported_tensors(weights, config, rows)
    check_free_space(output, total_size(tensors, config.dtype) + SPARE_BYTES)

    with atomic_folder(output, "config.json") as partial:
        hashes = write_shards(partial, tensors, config.dtype)
        _write_text_files(folder, partial, config, rows)
        write_json(partial / f"config.json{PARTIAL}", values)
        write_record(
            partial,
            command="llava-uhd-v2 export-released",
            options={"vision_tower": Path(vision_tower)},
            sources={path.name: path for path in [*weights.paths, *small_files(folder)]},
            hashes=hashes,
            repositories=repositories({"source": checkpoint}),
            filled=names_by_value({name: origin for name, origin in origins.items() if origin != OURS}),
            states=[states, weights.states],
        )
    _report(origins, config.text_config.vocab_size - rows)
    if config.text_config.model_type == "llama" and not (output / SENTENCEPIECE_NAME).is_file():
        print(f"{source} has no {SENTENCEPIECE_NAME}, without which the authors' code has no tokenizer; add Vicuna's.")
    print(f"Saved in {output}.")


def read_config(checkpoint: Source) -> LlavaUhdV2Config:
    """Reads the configuration of a checkpoint of ours.

    Raises:
        ValueError: if it is not one.
    """
    place = str(checkpoint.folder / "config.json")
    values = read_json(checkpoint.folder / "config.json")
    model_type = values.get("model_type")
    if model_type != LlavaUhdV2Config.model_type:
        raise ValueError(
            f"Expected a checkpoint of type `{LlavaUhdV2Config.model_type}` in {checkpoint.name}, but its config.json "
            f"says `model_type`={model_type!r}; convert a released one with `llava-uhd-v2 convert` first."
        )
    check_config_values(values, place)
    with config_errors(place):
        return LlavaUhdV2Config.from_pretrained(checkpoint.folder)


def refuse_other_tensors(weights: WeightFiles, shapes: dict[str, list[int]]) -> None:
    """Checks that the tensors are exactly those of the model.

    Raises:
        TensorMismatchError: if they are not; it lists all differences.
    """
    problems = [f"missing: `{name}`" for name in shapes.keys() - weights.shapes.keys()]
    problems += [f"unknown: `{name}`" for name in weights.shapes.keys() - shapes.keys()]
    problems += [
        f"wrong shape: `{name}` is {weights.shapes[name]}, must be {shapes[name]}"
        for name in shapes.keys() & weights.shapes.keys()
        if weights.shapes[name] != shapes[name]
    ]
    if problems:
        raise TensorMismatchError("The weights do not fit config.json", sorted(problems))


def count_source_rows(weights: WeightFiles, config: LlavaUhdV2Config) -> int:
    """Counts the rows of the embeddings without those at their end that a conversion would add again just so."""
    tables = [name for name in (INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS) if name in weights.shapes]
    embeddings = weights.read(INPUT_EMBEDDINGS)
    rows = len(embeddings)
    if config.image_token_id != rows - 1:
        return rows
    differs = (embeddings != embeddings[-1]).any(dim=1).nonzero()
    used_rows = int(differs[-1]) + 1 if len(differs) else rows
    for name in tables:
        table = weights.read(name)
        added = new_rows(name, [table[:used_rows]], [rows - used_rows, *table.shape[1:]], table.dtype)
        if not torch.equal(table[used_rows:], added):
            return rows
    return used_rows


def exported_tensors(
    weights: WeightFiles, config: LlavaUhdV2Config, rows: int
) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Returns every tensor of the released layout, and where it comes from, both by name.

    Args:
        weights: ours.
        config: ours.
        rows: rows of the embeddings to write.
    """
    shapes = with_rows(model_shapes(config), rows)
    generator = torch.Generator().manual_seed(SEED)
    tensors: dict[str, LazyTensor] = {}
    origins: dict[str, str] = {}
    for rule in build_rules(shapes, config.projector_config):
        ours = [torch.empty(shapes[name], device="meta") for name in rule.ours]
        for name, expected in rule.to_released(ours).items():
            tensors[name] = LazyTensor(expected.shape, _reader(weights, rule, name, rows), rule.ours)
            origins[name] = OURS
    released_prefix, our_prefix = TOWER_COPY
    for our_name, shape in shapes.items():
        if our_name.startswith(our_prefix) and has_tower_copy(config.projector_config):
            name = released_prefix + our_name.removeprefix(our_prefix)
            rule = Rule((name,), (our_name,))
            tensors[name] = LazyTensor(shape, _reader(weights, rule, name, rows), rule.ours)
            origins[name] = "copied from the vision tower"
    for name, (shape, filling) in unused_fillings(config).items():
        tensors[name] = in_memory(name, _fill(shape, filling, generator))  # drawn in this order, whatever the shards
        origins[name] = f"initialised ({filling})"
    if config.tie_word_embeddings:
        rule = Rule((OUTPUT_EMBEDDINGS,), (INPUT_EMBEDDINGS,))
        tensors[OUTPUT_EMBEDDINGS] = LazyTensor(
            shapes[INPUT_EMBEDDINGS], _reader(weights, rule, OUTPUT_EMBEDDINGS, rows), rule.ours
        )
        origins[OUTPUT_EMBEDDINGS] = "copied from the input embeddings"
    return tensors, origins


def _reader(weights: WeightFiles, rule: Rule, released: str, rows: int) -> Callable[[], list[Tensor]]:
    def read() -> list[Tensor]:
        tables = {INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS}
        ours = [weights.read(name)[:rows] if name in tables else weights.read(name) for name in rule.ours]
        return [rule.to_released(ours)[released]]

    return read


def _fill(shape: list[int], filling: str, generator: torch.Generator) -> Tensor:
    return FILLINGS[filling](torch.empty(shape), generator)


def _fill_uniformly(tensor: Tensor, generator: torch.Generator) -> Tensor:
    bound = tensor[0].numel() ** -0.5
    return init.uniform_(tensor, -bound, bound, generator=generator)


FILLINGS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "zeros": lambda tensor, _: init.zeros_(tensor),
    "ones": lambda tensor, _: init.ones_(tensor),
    "normal": lambda tensor, generator: init.trunc_normal_(tensor, std=INITIALIZER_RANGE, generator=generator),
    "standard normal": lambda tensor, generator: init.normal_(tensor, generator=generator),
    "uniform": _fill_uniformly,
    "Xavier-uniform": lambda tensor, generator: init.xavier_uniform_(tensor, generator=generator),
    "sines and cosines": lambda tensor, _: sincos_position_table([math.isqrt(len(tensor))] * 2, tensor.shape[1]),
}


def _write_text_files(source: Path, folder: Path, config: LlavaUhdV2Config, rows: int) -> None:
    """Writes the tokenizer, and the generation config without what a conversion adds."""
    tokenizer = None
    if any((source / name).is_file() for name in TOKENIZER_FILES):
        check_text_sizes(source)
        with file_errors(source, "has a tokenizer that can't be read"):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer.save_pretrained(folder)
        copy_sentencepiece(source, folder)
        remove_image_token(folder)
    if (source / GENERATION_CONFIG_NAME).is_file():
        with file_errors(source / GENERATION_CONFIG_NAME, "can't be used"):
            generation_config = GenerationConfig(**read_json(source / GENERATION_CONFIG_NAME))
            suppressed = set(generation_config.suppress_tokens or ()) - unspeakable_ids(config, tokenizer, rows)
            generation_config.suppress_tokens = sorted(suppressed) or None
            generation_config.save_pretrained(folder)


def _report(origins: dict[str, str], cut_rows: int) -> None:
    print(f"{'tensors':>8}  where they come from")
    for origin, count in Counter(origins.values()).most_common():
        print(f"{count:8}  {origin}")
    for name, origin in origins.items():
        if origin.startswith("initialised"):
            print(f"          {origin}: {name}")
    if cut_rows:
        print(f"{cut_rows} row(s) of the embeddings left out, which the conversion had added.")


__all__ = ["export_checkpoint"]
