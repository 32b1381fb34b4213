# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""YAML files that are named: shipped with the package by their names, or a user's by their paths."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path


def shipped_files(folder: str, prefix: str = "") -> dict[str, str]:
    """Reads the YAML files of a folder of this package.

    Args:
        folder: such as "recipes".
        prefix: of the names of the files.

    Returns:
        Name without suffix -> text, sorted by name.
    """
    files = [file for file in (resources.files(__package__) / folder).iterdir() if file.name.endswith(".yaml")]
    texts = {file.name.removesuffix(".yaml"): file for file in sorted(files, key=str)}
    return {name: file.read_text(encoding="utf-8") for name, file in texts.items() if name.startswith(prefix)}


def read_named(kind: str, name: str, shipped: Mapping[str, str]) -> str:
    """Returns the text of a shipped file or of a user's.

    Args:
        kind: what the file is, for messages.
        name: a name in `shipped`, or a path.
        shipped: of [`shipped_files`].

    Raises:
        ValueError: if there is no such file, or it is not text in UTF-8.
    """
    if name in shipped:
        return shipped[name]
    if not Path(name).is_file():
        known = f", or one of {', '.join(shipped)}" if shipped else ""
        raise ValueError(f"There is no {kind} file {name}; give a YAML file{known}.")
    try:
        return Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"The {kind} {name} is not text in UTF-8: {error}.") from error


__all__ = ["read_named", "shipped_files"]
