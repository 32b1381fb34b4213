# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Tables in Markdown files, between two comments that name them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from llava_uhd_v2_hf.utils.atomic import atomic_write


class Row(NamedTuple):
    client: str
    version: str
    what: str
    command: str


def table_pattern(name: str) -> re.Pattern[str]:
    """Groups: the head up to the rule under the column names, the rows, the end."""
    return re.compile(rf"(<!-- {name} -->\n.*?\n\|[-|: ]+\|\n)(.*?)(<!-- end -->)", re.DOTALL)


def read_table(path: Path, name: str) -> list[list[str]]:
    """The cells of a table.

    Raises:
        ValueError: if the file has no such table.
    """
    found = table_pattern(name).search(path.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{path} has no table between <!-- {name} --> and <!-- end -->.")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[2].splitlines()]


def replace_table(path: Path, name: str, rows: Iterable[Sequence[str]]) -> None:
    """Puts other rows under the column names of a table."""
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    read_table(path, name)
    text = table_pattern(name).sub(lambda found: found[1] + lines + found[3], path.read_text(encoding="utf-8"))
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
