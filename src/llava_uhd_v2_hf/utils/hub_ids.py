# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Whether a name is that of a folder or of a repository of the Hub, without asking the Hub."""

import re
from pathlib import Path


def find_folder(name: str) -> Path | None:
    """Tells a local folder from a Hub id; a folder that exists wins.

    Returns:
        The folder, or None for a Hub id.

    Raises:
        ValueError: if there is no such folder and the name is not a valid Hub id.
    """
    if Path(name).is_dir():
        return Path(name)
    if Path(name).parent.is_dir() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise ValueError(f"There is no folder {name}, and it is no Hub id like org/name.")
    return None


__all__ = ["find_folder"]
