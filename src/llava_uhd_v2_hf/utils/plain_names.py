# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Names of files that come from files, and links: what may not lead out of a folder."""

from pathlib import Path


CACHE_SNAPSHOTS, CACHE_BLOBS = "snapshots", "blobs"  # huggingface_hub's models--org--name/snapshots/COMMIT, and files


def check_plain_name(name: object, source: str) -> str:
    """Checks that a name from a file is that of a file without folders, and returns it.

    Args:
        name: the value that the file has.
        source: where it stands, for the message.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or any(letter in name for letter in "/\\:\0"):
        raise ValueError(f"Expected names of files without folders in {source}, got {name!r}; correct or remove it.")
    return name


def check_inside(path: Path, folder: Path) -> None:
    """Checks that a file of a folder lies in it: that no link leads elsewhere.

    In a snapshot of huggingface_hub's cache, links lead to the files of the same repository.

    Raises:
        ValueError: if it lies elsewhere.
    """
    folder = folder.resolve()
    places = [folder]
    if folder.parent.name == CACHE_SNAPSHOTS and folder.parents[1].name.startswith("models--"):
        places.append(folder.parents[1] / CACHE_BLOBS)
    if not any(path.resolve().is_relative_to(place) for place in places):
        raise ValueError(
            f"Expected the files of {folder} in that folder, but {path.name} is a link to {path.resolve()}; put a "
            "copy of the file in its place, or remove it."
        )


__all__ = ["check_inside", "check_plain_name"]
