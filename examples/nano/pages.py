# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Records of a training, rendered while it runs: pages with exact answers. Name this file as a recipe's `data.source`.

Splits: `read` (learning to read), `ask` (questions, with reading kept), `validation`; the test set is made by
test_set.py.
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
ALIKE = 64  # pages of one shape after another, so that the views of a batch can be encoded together
VIEW = 112  # side of a view, in pixels
READ_ALL, LONGEST = "Read the text.", 240
READ_LINE = "Read the line that starts with {}."
SIZES = (9, 10, 11, 12, 12, 13, 13, 14, 14, 15, 16, 17, 18)  # of letters, in pixels
QUESTIONS = 8  # of a page, at most


def records(split: str, shard: int) -> Iterator[dict[str, Any]]:
    """Conversations about pages, in LLaVA's form, with the PNG of the page beside them."""
    for start in range(0, PAGES_A_SHARD, ALIKE):
        source = random.Random(f"{split} {shard} {start}")
        kinds, height, width = draw_shape(split, source)
        for _ in range(ALIKE):
            yield make_record(split, kinds, height, width, source)


def draw_shape(split: str, source: random.Random) -> tuple[list[str], int, int]:
    """Kinds of documents that a sheet can have, and its (height, width) in pixels."""
    slices = source.choices(range(1, 7), (3, 2, 1, 1, 0, 0) if split == "read" else (1, 1, 1, 2, 1, 2))[0]
    if split == "read" and source.random() < 0.3:
        slices = source.randint(2, 6)
    ratio = math.exp(source.uniform(-1, 1) * math.log(3)) if slices > 1 else math.exp(source.uniform(-0.7, 0.7))
    area = slices * VIEW**2
    kinds = [kind for kind, (_, least, most) in KINDS.items() if least <= slices <= most]
    return kinds, round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))


def draw_page(kinds: list[str], height: int, width: int, split: str, source: random.Random) -> Sheet:
    """A page of one of the kinds, with something to ask about it, if it is no page of lines."""
    while True:
        kind = source.choice(kinds)
        sheet = Sheet(height, width, split, source, scale=2 if source.random() < 0.2 else 1)
        size = source.choice(SIZES)
        lines(sheet, size) if kind == "lines" else KINDS[kind][0](sheet, size)
        if sheet.texts and (sheet.facts or kind == "lines"):
            return sheet


def make_record(split: str, kinds: list[str], height: int, width: int, source: random.Random) -> dict[str, Any]:
    fonts = "validation" if split == "validation" else "train"
    kinds = ["lines", "lines", "lines", *kinds] if split == "read" else kinds
    sheet = draw_page(kinds, height, width, fonts, source)
    turns = ask(sheet, source, reading=1.0 if split == "read" else 0.35)
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
    """Turns of a conversation: with a chance of `reading` some or all of the text, and questions."""
    text = sheet.lines()
    asked = [(fact.question, fact.value) for fact in sheet.facts]
    asked += [(f"Where is the {fact.name}?", place) for fact in sheet.facts if (place := located(sheet, fact))]
    turns = source.sample(asked, min(len(asked), QUESTIONS))
    if source.random() < reading or not turns:
        turns = turns[: QUESTIONS // 2] + read_lines(text, source)
        source.shuffle(turns)
        if len("\n".join(text)) <= LONGEST:
            turns.insert(0, (READ_ALL, "\n".join(text)))
    return turns


def located(sheet: Sheet, fact: Any) -> str | None:
    return sheet.place(fact.box) if fact.kind == "field" else None


def read_lines(text: list[str], source: random.Random) -> list[tuple[str, str]]:
    """Questions for whole lines, by their first words."""
    firsts = [line.split()[0] for line in text]
    once = [(first, line) for first, line in zip(firsts, text) if firsts.count(first) == 1]
    return [(READ_LINE.format(first), line) for first, line in source.sample(once, min(len(once), 3))]
