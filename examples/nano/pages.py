# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Records of a training, rendered while it runs: pages with exact answers. Name this file as a recipe's `data.source`.

Splits: `view` (learning to read, in one view), `read` (the same with some slices, and first questions), `ask`
(questions, with reading kept), `ablation` (the same, other pages), `validation`; the test set is made by test_set.py.
A number after a split's name, as in `ablation-1`, gives other pages of its kind.
"""

import math
import random
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from documents import KINDS, lines
from PIL import Image
from sheet import Sheet


SHARDS = 64
PAGES_A_SHARD = 1_000_000
ALIKE = 128  # pages of one shape after another, so that the views of a batch can be encoded together
VIEW = 112  # side of a view, in pixels
READ_ALL, LONGEST = "Read the text.", 160
READ_LINE = "Read the line that starts with {}."
SIZES = (11, 12, 13, 14, 15, 16, 16, 17, 18, 18, 19, 20, 22)  # of letters, in pixels
QUESTIONS, BESIDE_READING = 12, 4  # of a page, at most
# task -> how often a sheet has the area of 1, 2, ... 6 slices; shares of sheets with lines instead of a document, and
# of those whose text is to be read
SLICES = {"view": (1, 0, 0, 0, 0, 0), "read": (3, 3, 1, 0, 0, 0), "ask": (2, 2, 2, 2, 1, 1)}
LINES = {"view": 1.0, "read": 0.25, "ask": 0.0}
READING = {"view": 1.0, "read": 0.4, "ask": 0.35}


def records(split: str, shard: int) -> Iterator[dict[str, Any]]:
    """Conversations about pages, in LLaVA's form, with the PNG of the page beside them.

    Every shard has pages of the same shapes in the same order, so that processes that train together wait little.
    """
    kind = split.split("-")[0]
    task, fonts = {"validation": ("ask", "validation"), "ablation": ("ask", "train")}.get(kind, (kind, "train"))
    for start in range(0, PAGES_A_SHARD, ALIKE):
        shape = draw_shape(task, random.Random(f"{split} {start}"))
        source = random.Random(f"{split} {shard} {start}")
        for _ in range(ALIKE):
            yield make_record(task, fonts, *shape, source)


def draw_shape(task: str, source: random.Random) -> tuple[list[str], int, int]:
    """Kinds of documents that a sheet can have, and its (height, width) in pixels."""
    slices = source.choices(range(1, 7), SLICES[task])[0]
    ratio = math.exp(source.uniform(-1, 1) * math.log(3)) if slices > 1 else math.exp(source.uniform(-0.7, 0.7))
    area = 0.98 * slices * VIEW**2
    kinds = [kind for kind, (_, least, most) in KINDS.items() if least <= slices <= most]
    return kinds, round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))


def draw_page(
    kinds: list[str],
    height: int,
    width: int,
    split: str,
    source: random.Random,
    double: float = 0.1,
    look: tuple[str, str] | None = None,
) -> Sheet:
    """A page of one of the kinds, with something to ask about it, if it is no page of lines.

    With a chance of `double` its picture has two pixels for each of the sheet's. `look` is as for a [`Sheet`].
    """
    while True:
        kind = source.choice(kinds)
        sheet = Sheet(height, width, split, source, scale=2 if source.random() < double else 1, look=look)
        size = source.choice(SIZES)
        lines(sheet, size) if kind == "lines" else KINDS[kind][0](sheet, size)
        if sheet.texts and (sheet.facts or kind == "lines"):
            return sheet


def make_record(
    task: str, fonts: str, kinds: list[str], height: int, width: int, source: random.Random
) -> dict[str, Any]:
    """A conversation about a page of one of the kinds, `view`, `read` or `ask`, in the fonts of a split."""
    kinds = ["lines"] if source.random() < LINES[task] else kinds
    turns = []
    while not turns:
        sheet = draw_page(kinds, height, width, fonts, source, double=0.1 if task == "ask" else 0.0)
        turns = ask(sheet, source, READING[task])
    conversation = []
    for number, (question, answer) in enumerate(turns):
        conversation.append({"from": "human", "value": question if number else f"<image>\n{question}"})
        conversation.append({"from": "gpt", "value": answer})
    return {"image": {"bytes": as_png(sheet.image), "path": None}, "conversations": conversation}


def as_png(image: Image.Image) -> bytes:
    stored = BytesIO()
    image.save(stored, "PNG", compress_level=1)
    return stored.getvalue()


def ask(sheet: Sheet, source: random.Random, reading: float) -> list[tuple[str, str]]:
    """Turns of a conversation: questions, and with a chance of `reading` the text or some lines of it.

    All of the text comes last: what has been read aloud need not be looked for on the page.
    """
    text = sheet.lines()
    asked = [(fact.question, fact.value) for fact in sheet.facts]
    asked += [(f"Where is the {fact.name}?", place) for fact in sheet.facts if (place := located(sheet, fact))]
    turns = source.sample(asked, min(len(asked), QUESTIONS))
    if turns and source.random() > reading:
        return turns
    turns = turns[:BESIDE_READING]
    if len("\n".join(text)) <= LONGEST and (not sheet.facts or source.random() < 0.7):
        return [*turns, (READ_ALL, "\n".join(text))]
    turns += read_lines(text, source)
    source.shuffle(turns)
    return turns


def located(sheet: Sheet, fact: Any) -> str | None:
    return sheet.place(fact.box) if fact.kind == "field" else None


def read_lines(text: list[str], source: random.Random) -> list[tuple[str, str]]:
    """Questions for whole lines, by their first words."""
    firsts = [line.split()[0] for line in text]
    once = [(first, line) for first, line in zip(firsts, text) if firsts.count(first) == 1]
    return [(READ_LINE.format(first), line) for first, line in source.sample(once, min(len(once), 3))]
