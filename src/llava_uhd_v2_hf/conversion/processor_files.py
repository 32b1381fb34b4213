# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Tokenizer, processor and generation config of a checkpoint folder."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AddedToken, AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config, LlavaUhdV2ProjectorConfig
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from ..model.processing_llava_uhd_v2 import LlavaUhdV2Processor
from ..model.registries_llava_uhd_v2 import TOWERS
from ..utils.errors import file_errors
from ..utils.json_files import MAX_BYTES, read_json
from ..utils.plain_names import check_inside
from .released_defaults import MAX_SLICES


IMAGE_TOKEN = "<image>"
SEPARATORS = {"row": ("\n", ";"), "slice": (",", "|")}
SENTENCEPIECE_NAME = "tokenizer.model"
TEXT_SUFFIXES = (".jinja", ".json", ".model", ".txt")
TOKENIZER_FILES = ("tokenizer.json", SENTENCEPIECE_NAME, "vocab.json")
PROCESSOR_FILES = (
    *TOKENIZER_FILES,
    *("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "merges.txt", "chat_template.jinja"),
    *("processor_config.json", "preprocessor_config.json"),
)
SAMPLING_KEYS = ("temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def check_text_sizes(source: Path) -> None:
    """Checks that no file that a tokenizer may be read from is too large, before it is read at once.

    Raises:
        ValueError: naming one that is.
    """
    for path in source.iterdir():
        if path.suffix in TEXT_SUFFIXES and path.is_file() and (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"Expected at most {MAX_BYTES} bytes in {path}, found {size}.")


def load_tokenizer(
    source: Path, text_config: PreTrainedConfig, gguf_file: str | None = None
) -> PreTrainedTokenizerBase:
    """Loads a tokenizer, sentencepiece or fast, and adds the image token and padding on the left.

    Args:
        source: folder of the tokenizer.
        text_config: of the language model.
        gguf_file: name of the GGUF file in `source` that holds the tokenizer.

    Raises:
        ValueError: if the folder has no tokenizer, or it cannot be read.
    """
    if gguf_file is None and not any((source / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{source} has no tokenizer ({', '.join(TOKENIZER_FILES)}); add it or use --skip-tokenizer")
    check_text_sizes(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, config=text_config, trust_remote_code=False, **gguf_options(gguf_file)
        )
    except Exception as error:  # each kind of file has its own
        raise ValueError(f"The tokenizer of {source} cannot be read; is a file truncated? ({error})") from error
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def separator_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Returns the tokens that end rows and separate slices: newline and comma, or the next of `SEPARATORS`.

    Raises:
        ValueError: if none of the texts is one token.
    """
    return _separator_id(tokenizer, "row"), _separator_id(tokenizer, "slice")


def _separator_id(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """Returns the id of the first text that is one token behind a letter: at the start, sentencepiece adds a space."""
    letter = tokenizer("a", add_special_tokens=False)["input_ids"]
    for text in SEPARATORS[name]:
        ids = tokenizer(f"a{text}", add_special_tokens=False)["input_ids"]
        if ids[:-1] == letter and ids[-1] != tokenizer.unk_token_id:
            return ids[-1]
    texts = " or ".join(map(repr, SEPARATORS[name]))
    raise ValueError(f"The tokenizer has no token for {texts}; choose one with --{name}-separator-id.")


def gguf_options(gguf_file: str | None) -> dict[str, str]:
    """Returns the arguments of transformers' `from_pretrained` that name a GGUF file."""
    return {} if gguf_file is None else {"gguf_file": gguf_file}


def build_processor(
    config: LlavaUhdV2Config, tokenizer: PreTrainedTokenizerBase | None, **image_values: Any
) -> LlavaUhdV2Processor | LlavaUhdV2ImageProcessor:
    """Builds the processor of a model, or without tokenizer its image processor alone.

    Args:
        config: the model's.
        tokenizer: with the image token among its tokens.
        image_values: further arguments of the image processor.
    """
    image_processor = LlavaUhdV2ImageProcessor(
        **{
            "max_slices": MAX_SLICES,
            "slice_resolution": config.vision_config.image_size,
            "patch_size": TOWERS[config.vision_config.model_type].stride(config.vision_config),
        }
        | image_values,
    )
    if tokenizer is None:
        return image_processor
    # Tokenizers that put a space mark before a text have one after the image too: the released code tokenises the
    # texts around an image one by one.
    first = tokenizer.tokenize("a")[0]
    return LlavaUhdV2Processor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        query_grid=config.projector_config.query_grid,
        token_layout=config.token_layout,
        image_token=IMAGE_TOKEN,
        image_suffix="" if first == "a" else " ",
        chat_template=tokenizer.chat_template,
        projector_config=_token_fields(config.projector_config),
    )


def _token_fields(projector: LlavaUhdV2ProjectorConfig) -> dict[str, Any] | None:
    """Returns the fields, beside the query grid, that may say how many tokens a view has."""
    default = LlavaUhdV2ProjectorConfig()
    if projector.projector_type == default.projector_type:
        return None
    names = LlavaUhdV2ProjectorConfig.__annotations__
    changed = {name: getattr(projector, name) for name in names if getattr(projector, name) != getattr(default, name)}
    return {name: value for name, value in changed.items() if name != "query_grid"}


def copy_sentencepiece(source: Path, folder: Path) -> None:
    """Copies the model file of a sentencepiece tokenizer, if there is one: the authors' code reads nothing else.

    Raises:
        ValueError: if it is a link out of the folder.
    """
    if (source / SENTENCEPIECE_NAME).is_file():
        check_inside(source / SENTENCEPIECE_NAME, source)
        shutil.copyfile(source / SENTENCEPIECE_NAME, folder / SENTENCEPIECE_NAME)


def remove_image_token(folder: Path) -> None:
    """Takes the image token out of the files of a saved tokenizer; the authors' code cuts prompts at its text."""
    for path in (folder / "tokenizer.json", folder / "tokenizer_config.json"):
        values = read_json(path)
        for key in ("added_tokens", "extra_special_tokens", "additional_special_tokens"):
            if key in values:
                values[key] = [token for token in values[key] if IMAGE_TOKEN not in (token, _content_of(token))]
        path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _content_of(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else None


def unspeakable_ids(config: LlavaUhdV2Config, tokenizer: PreTrainedTokenizerBase | None, source_rows: int) -> set[int]:
    """Returns the image token and every id that stands for no text.

    Args:
        config: the model's.
        tokenizer: without it, nothing is known of the source's ids.
        source_rows: rows of the source's embeddings; what lies behind was added.
    """
    rows = config.text_config.vocab_size
    ids = {config.image_token_id, *range(source_rows, rows)}
    if tokenizer is not None:
        ids |= set(range(rows)) - set(tokenizer.get_vocab().values())
    return ids


def build_generation_config(
    source: Path | None,
    config: LlavaUhdV2Config,
    tokenizer: PreTrainedTokenizerBase | None,
    source_rows: int,
    ends: Sequence[int] = (),
) -> GenerationConfig:
    """Builds the generation config: the source's, which also suppresses the image token and ids without text.

    Args:
        source: folder that may have a generation_config.json, if there is one.
        config: the model's.
        tokenizer: see [`unspeakable_ids`].
        source_rows: see [`unspeakable_ids`].
        ends: tokens of the chat template that end an answer; generation stops at them, too.
    """
    with file_errors(source or "config.json", "has a generation config that can't be used"):
        values = {key: getattr(config.text_config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        if source is not None and (source / GENERATION_CONFIG_NAME).is_file():
            values |= read_json(source / GENERATION_CONFIG_NAME)
        values = {
            key: value for key, value in values.items() if key not in ("_from_model_config", "transformers_version")
        }
        if not values.get("do_sample"):
            values = {key: value for key, value in values.items() if key not in SAMPLING_KEYS}
        if tokenizer is not None and values.get("pad_token_id") is None:
            values["pad_token_id"] = tokenizer.pad_token_id
        values["eos_token_id"] = _with_ids(values.get("eos_token_id"), ends)
        suppressed = unspeakable_ids(config, tokenizer, source_rows).union(values.get("suppress_tokens") or ())
        return GenerationConfig(**values | {"suppress_tokens": sorted(suppressed)})


def _with_ids(ids: int | list[int] | None, more: Sequence[int]) -> int | list[int] | None:
    known = [] if ids is None else ids if isinstance(ids, list) else [ids]
    missing = [token for token in more if token not in known]
    return [*known, *missing] if missing else ids
