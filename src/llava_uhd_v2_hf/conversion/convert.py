# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Converts a released LLaVA-UHD v2 checkpoint to a complete folder that transformers loads.

The source holds config.json, safetensors or .bin shards and, unless skipped, the tokenizer. Tensors go from
shards into new ones piece by piece. The output appears when it is complete, with the checksums of
everything in its conversion.json.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..utils.atomic import PARTIAL, atomic_folder, check_free_space, prepare_folder
from ..utils.json_files import read_json
from .chat_templates import FALLBACKS, NAMED_TEMPLATES
from .config_checks import check_config_sizes
from .output_folder import SPARE_BYTES, names_by_value, small_files, write_record
from .processor_files import (
    IMAGE_TOKEN,
    build_generation_config,
    build_processor,
    copy_sentencepiece,
    load_tokenizer,
)
from .released_config import build_config, build_text_config, build_vision_config
from .released_kinds import find_kind
from .rules import Rule
from .sources import open_source, repositories
from .stored_tensors import FileStates
from .weight_files import (
    FLOATING_DTYPES,
    LazyTensor,
    LoadedWeights,
    WeightFiles,
    dtype_name,
    split_into_pieces,
    total_size,
    write_shards,
)
from .weight_map import INPUT_EMBEDDINGS, WeightPlan, model_shapes, plan_weights, with_rows


KEPT_DTYPES = ("float32", "bfloat16", "float16")


def convert_checkpoint(
    source: str | Path,
    output: Path,
    *,
    vision_config: Path | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    skip_tokenizer: bool = False,
) -> None:
    """Converts the released checkpoint in `source` into the folder `output`.

    Args:
        source: folder or Hub id of the released config.json, weights and, unless skipped, tokenizer.
        output: folder to write; it must not exist, or be empty.
        vision_config: config.json of the vision tower, for towers other than CLIP-ViT-L/14-336.
        dtype: of the converted weights; by default that of the released ones.
        skip_tokenizer: whether to write the image processor alone, without tokenizer and processor.

    Raises:
        OSError: if a Hub id can't be downloaded, or `output` does not fit on its disk.
        ValueError: if `output` is in use, or anything in `source` is missing, unreadable,
            unknown, not supported or not finite. Nothing is left in `output` then.
    """
    output = output.resolve()
    prepare_folder(output)
    checkpoint = open_source(source)
    folder = checkpoint.folder
    place = str(folder / "config.json")
    values = read_json(folder / "config.json")
    text_config = build_text_config(values, place)
    released_rows = text_config.vocab_size
    checkpoint.fetch_small_files()
    states = FileStates(small_files(folder))
    tokenizer = None if skip_tokenizer else load_tokenizer(folder, text_config)
    if tokenizer is not None and "endgeneration" not in (tokenizer.chat_template or ""):  # not one of ours
        tokenizer.chat_template = NAMED_TEMPLATES[FALLBACKS[text_config.model_type]]
    image_token_id = released_rows if tokenizer is None else tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    text_config.vocab_size = max(released_rows, image_token_id + 1)
    config = build_config(values, text_config, build_vision_config(values, vision_config), image_token_id)

    checkpoint.fetch_weights()
    weights = WeightFiles.from_folder(folder)
    check_config_sizes(values, weights.shapes, place)
    shapes = model_shapes(config)
    if config.tie_word_embeddings:
        _refuse_untied_head(weights)
    plan = plan_weights(weights.shapes, with_rows(shapes, released_rows), config.projector_config)
    config.dtype = choose_dtype({name: weights.dtypes[name] for name in released_names(plan)}, dtype)
    tensors = {
        name: converted_tensor(weights, plan.rules[name], name, shape, config.dtype) for name, shape in shapes.items()
    }
    check_free_space(output, total_size(tensors, config.dtype) + SPARE_BYTES)
    generation_config = build_generation_config(folder, config, tokenizer, released_rows)
    _report(values, config, plan)

    with atomic_folder(output, "config.json") as partial:
        hashes = write_shards(partial, tensors, config.dtype)
        generation_config.save_pretrained(partial)
        build_processor(config, tokenizer, max_slices=find_kind(values).max_slices).save_pretrained(partial)
        if tokenizer is not None:
            copy_sentencepiece(folder, partial)
        config.to_json_file(partial / f"config.json{PARTIAL}")
        sources = {path.name: path for path in [*weights.paths, *small_files(folder)]}
        if vision_config is not None:
            sources[f"vision_config/{vision_config.name}"] = vision_config
        write_record(
            partial,
            command="llava-uhd-v2 convert",
            options={"vision_config": vision_config, "dtype": dtype, "skip_tokenizer": skip_tokenizer},
            sources=sources,
            hashes=hashes,
            repositories=repositories({"source": checkpoint}),
            unused=names_by_value(plan.unused),
            states=[states, weights.states],
        )
    print(f"Saved in {output}.")


def _report(values: dict[str, Any], config: LlavaUhdV2Config, plan: WeightPlan) -> None:
    print(f"Kind: {find_kind(values).title} (`mm_projector_type`={values['mm_projector_type']!r}).")
    print(f"Token layout: {config.token_layout}.")
    mask = values.get("feature_scale_mask")
    where = f"`feature_scale_mask`={mask}" if mask is not None else "config.json has no `feature_scale_mask`"
    print(f"Pyramid levels: {config.projector_config.levels} ({where}).")
    for reason, count in sorted(Counter(plan.unused.values()).items()):
        print(f"{count} tensor(s) left out: {reason}.")
    print(f"Saving as {dtype_name(config.dtype)}.")


def released_names(plan: WeightPlan) -> list[str]:
    """Returns the released tensors that are used."""
    return sorted({name for rule in plan.rules.values() for name in rule.released})


def _refuse_untied_head(weights: WeightFiles) -> None:
    embeddings, head = "model.embed_tokens.weight", "lm_head.weight"
    if not {embeddings, head} <= weights.shapes.keys():
        return
    if weights.shapes[embeddings] != weights.shapes[head] or not all(
        torch.equal(ours, other) for ours, other in zip(weights.pieces(embeddings), weights.pieces(head), strict=True)
    ):
        raise ValueError(
            f"config.json ties the embeddings, but `{head}` differs from `{embeddings}`; set "
            "`tie_word_embeddings` to false."
        )


def choose_dtype(dtypes: dict[str, str], dtype: str | None) -> torch.dtype:
    """Returns the dtype to write: the one that was asked for, or that of all weights.

    Args:
        dtypes: name of the dtype of every weight, by name.
        dtype: the one that was asked for.

    Raises:
        ValueError: if weights are no floating-point numbers, or have no common dtype that can be kept.
    """
    names = {word: [name for name in dtypes if dtypes[name] == word] for word in sorted(set(dtypes.values()))}
    found = ", ".join(f"{len(group)} of {word} (such as `{group[0]}`)" for word, group in names.items())
    if not names.keys() <= set(FLOATING_DTYPES):
        raise ValueError(f"Weights must be floating-point numbers, not quantised; found: {found}.")
    if dtype is not None:
        return getattr(torch, dtype)
    if len(names) > 1 or not names.keys() <= set(KEPT_DTYPES):
        raise ValueError(f"The weights have no common dtype that can be kept: {found}; choose one with --dtype")
    return getattr(torch, next(iter(names)))


def widest_dtype(dtypes: dict[str, str]) -> torch.dtype:
    """Returns the dtype of all weights, or float32 where there are several: nothing is rounded."""
    return choose_dtype(dtypes, None if len(set(dtypes.values())) == 1 else "float32")


def converted_tensor(
    weights: WeightFiles | LoadedWeights, rule: Rule, name: str, shape: list[int], dtype: torch.dtype
) -> LazyTensor:
    """Returns one of our tensors, by its rule, with the rows that are to be added to embeddings.

    Args:
        weights: the released ones.
        rule: the one that makes the tensor.
        name: of our tensor.
        shape: of our tensor.
        dtype: in which it will be written.
    """

    def read() -> Iterator[Tensor]:
        if rule.operation == "rename":
            [released] = rule.released
            yield from weights.pieces(released)
            if count := shape[0] - weights.shapes[released][0]:
                yield new_rows(name, weights.pieces(released), [count, *shape[1:]], dtype)
        else:
            yield rule.to_ours([weights.read(released) for released in rule.released])[name]

    return LazyTensor(shape, read, rule.released)


def new_rows(name: str, table: Iterable[Tensor], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Returns rows to add to an embedding table.

    Those of the input embeddings are the mean of the others, so that no other row equals them; those of the output
    embeddings are zero, so that no other logit changes.

    Args:
        name: of our table.
        table: its other rows, in any number of parts.
        shape: (rows to add, d).
        dtype: of the rows.
    """
    if name != INPUT_EMBEDDINGS:
        return torch.zeros(1, *shape[1:], dtype=dtype).expand(*shape)
    total, rows = torch.zeros(shape[1], dtype=torch.float64), 0
    for piece in split_into_pieces(table, dtype):
        total += piece.sum(0, dtype=torch.float64)
        rows += len(piece)
    return (total / rows).to(dtype).expand(*shape)


__all__ = ["convert_checkpoint"]
