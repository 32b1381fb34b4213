# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The data of fine-tuning: a recipe's section, and files that mix several sources."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..utils.strict_yaml import build, parse_yaml
from .sources import MIXTURES, registered_suffix


@dataclass
class ConversationData:
    """Where the conversations of a fine-tuning come from, and what happens to those that can't be used.

    Args:
        source: a file with a suffix of [`SOURCES`] (LLaVA's .json or .jsonl, .parquet, or .py, which generates records
            and is streamed only, see [`open_script`]), a folder of .parquet files, a data set of the Hub, or a .yaml
            file that mixes several of these (see [`MixtureSource`]).
        images: folder that the names of images are relative to; None for the folder of the source.
        split: of a data set of the Hub or a folder of .parquet files.
        streaming: whether records are read while training, without a copy.
        shuffle_buffer: samples among which a stream is shuffled; with 1, those of a shard stay in their order.
        max_length: longest sample in tokens; text beyond it is cut. None for the tokenizer's `model_max_length`.
        max_slices: largest number of slices of an image (released training 7; 1 for the overview alone); None for the
            processor's own.
        missing_images: `"skip"` leaves out samples with an image file that is not there.
        unsupervised: `"drop"` leaves out samples of which no token is trained on.
        cut_images: `"drop"` leaves out samples of which `max_length` would cut an image.
        pre_resize: how some images are resized before they are sliced, by the code of the Vicuna-7B checkpoint
            (`"released-permute"`) or of the other two (`"released-sequential"`); None for not at all.
        label_rule: what is trained on: what the chat template marks (`"template"`), or what the released training of
            the Qwen2 checkpoint takes (`"released-chatml"`, see [`released_chatml_labels`]).

    Raises:
        ValueError: if a number is less than 1.
    """

    source: str = ""
    images: str | None = None
    split: str = "train"
    streaming: bool = False
    shuffle_buffer: int = 1000
    max_length: int | None = None
    max_slices: int | None = None
    missing_images: Literal["error", "skip"] = "error"
    unsupervised: Literal["error", "drop"] = "error"
    cut_images: Literal["error", "drop"] = "error"
    pre_resize: Literal["released-permute", "released-sequential"] | None = None
    label_rule: Literal["template", "released-chatml"] = "template"

    def __post_init__(self):
        for name in ("shuffle_buffer", "max_length", "max_slices"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`data.{name}` must be at least 1, got {value}.")


@dataclass
class MixtureSource:
    """One source of a mixture; an epoch has all of its samples, unless `samples` or `weight` says otherwise.

    Args:
        path: as `source` of [`ConversationData`], but no mixture; relative to the mixture's root.
        images: folder that the names of images are relative to, itself relative to the root; None for the folder of
            the source.
        split: as of [`ConversationData`].
        samples: how many of its samples an epoch has, drawn without repetition as far as they last. A stream, whose
            sources have no known size, draws from them in proportion to `samples`.
        weight: how often an epoch has each sample: 0.5 for half of them, 2 for each twice.
        prompt: response-format prompt, put in a line of its own behind the first question if it doesn't end with it.

    Raises:
        ValueError: if both `samples` and `weight` are given, or one that is too small.
    """

    path: str
    images: str | None = None
    split: str = "train"
    samples: int | None = None
    weight: float | None = None
    prompt: str | None = None

    def __post_init__(self):
        if self.samples is not None and self.weight is not None:
            raise ValueError(f"`path`={self.path} has both `samples` and `weight`; give one of them.")
        if (self.samples is not None and self.samples < 1) or (self.weight is not None and self.weight <= 0):
            raise ValueError(
                f"`path`={self.path} needs `samples` of at least 1 or a positive `weight`, got "
                f"{self.samples if self.weight is None else self.weight}; leave the source out instead."
            )


def read_sources(data: ConversationData) -> list[MixtureSource]:
    """The sources of a recipe: those of its mixture, or the one that it names; with whole paths.

    Raises:
        ValueError: if there is none, or the mixture has an unknown key or a value that can't be used.
    """
    if not data.source:
        raise ValueError("There are no conversations: set `data.source` to a file, a folder or a data set of the Hub.")
    path = Path(data.source)
    if path.suffix not in MIXTURES:
        return [MixtureSource(data.source, images=data.images or _folder(data.source), split=data.split)]
    if data.images is not None:
        raise ValueError(f"`data.images` is not for a mixture; set `images` of the sources in {path}.")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The mixture {path} can't be read: {error}; set `data.source`.") from error
    return _read_mixture(values, path)


def _read_mixture(values: Any, path: Path) -> list[MixtureSource]:
    """`root`, a folder (the mixture's own by default), and `sources`, a list of mappings."""
    entries = values.get("sources") if isinstance(values, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} must have a list `sources` of mappings, each with a `path`.")
    if unknown := set(values) - {"root", "sources"}:
        raise ValueError(f"{path} has an unknown key `{sorted(map(str, unknown))[0]}`; known: root, sources.")
    root = values.get("root", "")
    if not isinstance(root, str):
        raise ValueError(f"{path}: `root` must be a folder, got {root!r}.")
    folder = path.parent / root
    sources = []
    for number, entry in enumerate(entries):
        source = build(MixtureSource, entry, str(path), f"sources[{number}].")
        if (folder / source.path).exists() or registered_suffix(source.path):
            source.path = str(folder / source.path)
        source.images = str(folder / source.images) if source.images else _folder(source.path)
        sources.append(source)
    return sources


def _folder(source: str) -> str:
    """The folder of a file, a folder itself, and the working folder for a data set of the Hub."""
    path = Path(source)
    return str(path if path.is_dir() else path.parent if path.exists() else "")


__all__ = ["ConversationData", "MixtureSource", "read_sources"]
