# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Size and checksum of a file: whether it is the one that it was."""

import zlib
from pathlib import Path
from typing import TypedDict


BLOCK = 2**20
BLOCKS = 64  # of a large file that are read


class FileFacts(TypedDict):
    """Size in bytes and CRC-32 of a file."""

    bytes: int
    crc32: int


def file_facts(path: Path) -> FileFacts:
    """Returns size and checksum of a file; of one above 64 MiB, the checksum is of 64 blocks spread over it.

    Raises:
        OSError: if it can't be read.
    """
    size, checksum = path.stat().st_size, 0
    last = max(size - BLOCK, 0)
    starts = range(0, size, BLOCK) if size <= BLOCKS * BLOCK else [last * n // (BLOCKS - 1) for n in range(BLOCKS)]
    with open(path, "rb") as file:
        for start in starts:
            file.seek(start)
            checksum = zlib.crc32(file.read(BLOCK), checksum)
    return {"bytes": size, "crc32": checksum}


__all__ = ["FileFacts", "file_facts"]
