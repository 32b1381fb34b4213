# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The test set: 500 questions about 125 pages in fonts, styles and values that no training draws (see values.py).

    python examples/nano/test_set.py FOLDER [--fonts train] [--styles train]

writes the pages and test.jsonl, whose records also say what was asked (`kind`), how large the answer's letters are
(`band`) and whether an edge between slices cuts it (`cut`). With `train`, fonts or styles of fields, tables and charts
are those of the training; the values are still held out.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

from pages import VIEW, draw_page, draw_shape, located
from sheet import Fact, Sheet

from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import plan_slices


PAGES, QUESTIONS_A_PAGE, SEED = 125, 4, 20241218
BANDS = {"small": range(14), "medium": range(14, 18), "large": range(18, 99)}  # letters, in pixels of the sheet


def make_pages(
    split: str = "test", count: int = PAGES, seed: int = SEED, look: tuple[str, str] | None = None
) -> list[tuple[Sheet, list[dict[str, Any]]]]:
    """Pages with their questions, always the same ones."""
    pages = []
    while len(pages) < count:
        source = random.Random(f"{split} {seed} {len(pages)}")
        while True:
            kinds, height, width = draw_shape("ask", source)
            sheet = draw_page(kinds, height, width, split, source, look=look)
            questions = [entry for fact in sheet.facts for entry in describe(sheet, fact)]
            if len(questions) >= QUESTIONS_A_PAGE:
                break
        pages.append((sheet, source.sample(questions, QUESTIONS_A_PAGE)))
    return pages


def describe(sheet: Sheet, fact: Fact) -> list[dict[str, Any]]:
    """The questions about a fact, with what results are reported by."""
    band = next(name for name, sizes in BANDS.items() if fact.size in sizes)
    kind = "quantity" if fact.value.isdigit() and len(fact.value) < 3 and fact.kind != "chart" else fact.kind
    about = {"band": band, "cut": is_cut(sheet, fact)}
    entries = [{"question": fact.question, "answer": fact.value, "kind": kind, **about}]
    if place := located(sheet, fact):
        entries.append({"question": f"Where is the {fact.name}?", "answer": place, "kind": "place", **about})
    return entries


def is_cut(sheet: Sheet, fact: Fact) -> bool:
    """Whether an edge between two slices goes through the answer."""
    width, height = sheet.image.size
    plan = plan_slices(height, width, max_slices=6, slice_resolution=VIEW, patch_size=14)
    rows, columns = plan.grid
    left, top, right, bottom = fact.box
    edges = [(sheet.width * index / columns, left, right) for index in range(1, columns)]
    edges += [(sheet.height * index / rows, top, bottom) for index in range(1, rows)]
    return any(start < edge < end for edge, start, end in edges)


def write_test_set(folder: Path, fonts: str = "test", styles: str = "test") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number, (sheet, questions) in enumerate(make_pages(look=(fonts, styles))):
        image = f"{number:03d}.png"
        sheet.image.save(folder / image)
        for entry in questions:
            turns = [
                {"from": "human", "value": f"<image>\n{entry['question']}"},
                {"from": "gpt", "value": entry["answer"]},
            ]
            about = {key: entry[key] for key in ("kind", "band", "cut")}
            records.append({"id": len(records), "image": image, "conversations": turns, **about})
    path = folder / "test.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fonts", choices=["test", "train"], default="test")
    parser.add_argument("--styles", choices=["test", "train"], default="test")
    print(write_test_set(**vars(parser.parse_args())))
