# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Complete checkpoint folders: which files belong to one, and whether its weights are whole."""

import ast
import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from safetensors import SafetensorError, safe_open
from transformers.utils import (
    CHAT_TEMPLATE_FILE,
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
)

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..utils.json_files import read_json
from ..utils.plain_names import check_inside, check_plain_name


CARD_NAME = "README.md"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
EXTENSIONS_NAME = "extensions_llava_uhd_v2.py"
REGISTRIES = "registries_llava_uhd_v2"
CODE_FILES = "*_llava_uhd_v2.py"
REQUIRED_FILES = (CONFIG_NAME, GENERATION_CONFIG_NAME, PROCESSOR_NAME, CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_NAME)
VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Published if a folder has them; everything else (optimizer states, logs, pickles) is not.
OTHER_FILES = (
    "added_tokens.json",
    "chat_templates/*.jinja",
    "conversion.json",
    "recipe.yaml",
    "merges.txt",
    "preprocessor_config.json",
    "special_tokens_map.json",
    CODE_FILES,
    *("LICENSE", "LICENSE.md", "LICENSE.txt"),
    *("NOTICE", "NOTICE.md", "NOTICE.txt"),
)
PICTURES = (".gif", ".jpeg", ".jpg", ".png", ".svg", ".webp")  # suffixes of what is published where the card links it
LINK = re.compile(r"\]\(\s*<?([^\s<>()]+)|\b(?:src|href)\s*=\s*[\"']([^\"']+)")  # in Markdown, in HTML
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass
class Checkpoint:
    """A complete checkpoint folder.

    Attributes:
        files: everything that belongs to it but weights and card: name -> path.
        weights: the safetensors files and, where they are several, their index: name -> path.
        linked: names of files that the card links to and that don't belong to it.
        left_out: names of the folder's other files and sub-folders.
    """

    files: dict[str, Path]
    weights: dict[str, Path]
    linked: list[str]
    left_out: list[str]

    @property
    def config(self) -> dict[str, Any]:
        """Returns the values of config.json, unchecked.

        Raises:
            ValueError: if it is not a JSON file.
        """
        return read_json(self.files[CONFIG_NAME])

    @property
    def has_code(self) -> bool:
        """Returns whether config.json names the code that it loads with.

        Raises:
            ValueError: if it is not a JSON file.
        """
        return bool(self.config.get("auto_map"))

    @property
    def extensions(self) -> list[str]:
        """Returns the files of its code that register kinds from outside the package.

        Raises:
            ValueError: if the file that names them is not valid Python.
        """
        return extension_files(self.files[EXTENSIONS_NAME]) if EXTENSIONS_NAME in self.files else []

    @property
    def code(self) -> list[str]:
        """Returns the names of the files of its code, which an export with code replaces.

        Raises:
            ValueError: if the file that names its extensions is not valid Python.
        """
        return [name for name in self.files if _matches(name, (CODE_FILES, *self.extensions))]

    @property
    def num_bytes(self) -> int:
        """Returns the size in bytes of its files, without the card."""
        return sum(path.stat().st_size for path in (*self.files.values(), *self.weights.values()))


def read_checkpoint(folder: Path, include: Iterable[str] = ()) -> Checkpoint:
    """Looks at a folder as `from_pretrained` will: all files there, weights readable and whole.

    Args:
        folder: of the checkpoint.
        include: names of further files in it that belong to it.

    Raises:
        ValueError: if anything is missing, truncated, or of another kind; the message names all of it.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if missing := _missing_files(names):
        raise ValueError(f"{folder} is not complete. Missing: {'; '.join(missing)}.")
    model_type = read_json(folder / CONFIG_NAME).get("model_type")
    if model_type != LlavaUhdV2Config.model_type:
        raise ValueError(f"{folder} holds a model of type `{model_type}`, not `{LlavaUhdV2Config.model_type}`.")

    weights = {name: folder / name for name in _check_weights(folder)}
    linked = _linked_files(folder / CARD_NAME, names)
    patterns = [*REQUIRED_FILES, *VOCABULARY_FILES, *OTHER_FILES]
    if EXTENSIONS_NAME in names:
        patterns += extension_files(folder / EXTENSIONS_NAME)
    chosen = {*_named_files(folder, include, names), *(name for name in linked if _is_picture(name))}
    published = [name for name in names if name in chosen or _matches(name, patterns)]
    files = {name: folder / name for name in published if name not in weights and name != CARD_NAME}
    known = {*files, *weights, CARD_NAME}
    _check_links(folder, sorted(known))
    left_out = {name.partition("/")[0] for name in names if name not in known}
    return Checkpoint(files, weights, [name for name in linked if name not in known], sorted(left_out))


def _named_files(folder: Path, include: Iterable[str], names: list[str]) -> list[str]:
    named = [PurePosixPath(name).as_posix() for name in include]
    if missing := [name for name in named if name not in names]:
        raise ValueError(f"Expected names of files in {folder}, but it has no {', '.join(missing)}.")
    return named


def _check_links(folder: Path, names: list[str]) -> None:
    """Checks that links among the files of a checkpoint lead to other files of it.

    Raises:
        ValueError: if one leads elsewhere.
    """
    for path in (folder / name for name in names):
        check_inside(path, folder)
        target = path.resolve()
        if target.is_relative_to(folder.resolve()):
            name = target.relative_to(folder.resolve()).as_posix()
            if path.exists() and name not in names:
                raise ValueError(
                    f"Expected files of the checkpoint in {folder}, but {path.name} is a link to {name}, which is "
                    "none; put a copy of the file in its place, or remove it."
                )


def extension_files(path: Path) -> list[str]:
    """Returns the names of the files that a folder's extensions_llava_uhd_v2.py imports; reads it, does not run it.

    Raises:
        ValueError: if it is not valid Python.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid Python: {error}") from error
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1}
    return sorted(f"{module}.py" for module in modules if module and module != REGISTRIES)


def _missing_files(names: list[str]) -> list[str]:
    missing = [name for name in REQUIRED_FILES if name not in names]
    if not any(name in names for name in VOCABULARY_FILES):
        missing.append(f"the tokenizer ({', '.join(VOCABULARY_FILES)})")
    if SAFE_WEIGHTS_NAME not in names and SAFE_WEIGHTS_INDEX_NAME not in names:
        pickles = [name for name in names if _matches(name, PICKLES)]
        missing.append(
            SAFE_WEIGHTS_NAME
            + (f" ({', '.join(pickles)} won't do: pickles run code; save the model again)" if pickles else "")
        )
    return missing


def _linked_files(card: Path, names: Iterable[str]) -> list[str]:
    """Returns which of these files a card links to."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    links = {PurePosixPath(unquote(target)).as_posix() for match in LINK.findall(text) for target in match if target}
    return [name for name in names if name in links]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES) and not _is_hidden(name)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Returns whether a name fits one of the patterns; a hidden one fits none."""
    fits = (fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)
    return not _is_hidden(name) and any(fits)


def _check_weights(folder: Path) -> list[str]:
    """Returns the names of the weight files that transformers will load, their index first if there is one."""
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        expected: dict[str, set[str]] = {SAFE_WEIGHTS_NAME: set()}
    else:
        expected = {}
        index = read_json(folder / SAFE_WEIGHTS_INDEX_NAME)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(f"{folder / SAFE_WEIGHTS_INDEX_NAME} names no weights.")
        for tensor, name in weight_map.items():
            place = f"`weight_map` of {folder / SAFE_WEIGHTS_INDEX_NAME}"
            expected.setdefault(check_plain_name(name, place), set()).add(tensor)
    if missing := [name for name in sorted(expected) if not (folder / name).is_file()]:
        raise ValueError(f"{folder} is not complete. Missing: {'; '.join(missing)}.")
    for name, tensors in expected.items():
        try:
            with safe_open(folder / name, "pt") as file:
                lost = sorted(tensors - set(file.keys()))
        except SafetensorError as error:
            raise ValueError(f"{folder / name} is no safetensors file, or not whole: {error}") from error
        if lost:
            raise ValueError(f"{folder / name} has no `{lost[0]}`, which {SAFE_WEIGHTS_INDEX_NAME} says is in it.")
    index_name = [] if (folder / SAFE_WEIGHTS_NAME).is_file() else [SAFE_WEIGHTS_INDEX_NAME]
    return [*index_name, *sorted(expected)]


__all__ = ["CODE_FILES", "Checkpoint", "extension_files", "read_checkpoint"]
