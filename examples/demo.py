# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Asks the small trained model about two documents that it has never seen. `make demo` runs it.

    python examples/demo.py [OUT] [MODEL]

The documents are as difficult as what it reads well: in fonts and styles of its training in examples/nano, with large
letters, and answers that no edge between slices cuts. Their values are of the test set's split. Question, answer and
truth are printed; the picture (demo.png) shows the documents and where the model looked. The documents themselves are
written beside it (demo_form.png, demo_receipt.png), to be asked more.
"""

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForImageTextToText, AutoProcessor

import llava_uhd_v2_hf  # noqa: F401  registers the model
from llava_uhd_v2_hf.inference.chat import Chat
from llava_uhd_v2_hf.inference.inspection import inspect_image
from llava_uhd_v2_hf.pictures.attention import attend, place_weights
from llava_uhd_v2_hf.pictures.attention_picture import draw_attended
from llava_uhd_v2_hf.pictures.canvas import (
    save_picture,
)


NANO = Path(__file__).parent / "nano"
sys.path.insert(0, str(NANO))

from pages import draw_page  # noqa: E402
from sheet import Fact, Sheet  # noqa: E402
from test_set import BANDS, is_cut  # noqa: E402


SEED = 2026
DOCUMENTS = (("form", 180, 210, 3), ("receipt", 230, 170, 2))  # kind, (height, width) in pixels, questions
VALUES = 3  # different ones that can be asked for, at least
TALL, GAP = 260, 16  # of a document in the picture, in pixels; between two
MARGIN = 30
BACKGROUND, INK, MUTED, RIGHT, WRONG = "#f3f3f1", "#1f2328", "#5c646d", "#1a7f37", "#cf222e"
LARGE, MEDIUM, SMALL = (ImageFont.load_default(size=size) for size in (21, 15, 12))


def draw_documents() -> list[tuple[Sheet, list[tuple[str, str]]]]:
    """The documents, each with questions and their answers."""
    documents = []
    for kind, height, width, count in DOCUMENTS:
        source = random.Random(f"{SEED} {kind}")
        facts: list[Fact] = []
        while len({fact.value for fact in facts}) < VALUES:
            sheet = draw_page([kind], height, width, "test", source, look=("train", "train"))
            facts = [fact for fact in sheet.facts if fact.size in BANDS["large"] and not is_cut(sheet, fact)]
        facts = source.sample(facts, count)
        documents.append((sheet, [(fact.question, fact.value) for fact in facts]))
    return documents


def ask_about(sheet: Sheet, questions: list[tuple[str, str]], model, processor) -> tuple[list[str], list[Image.Image]]:
    """The answers, and for each a picture of where the model looked; each question is a conversation of its own."""
    inspection = inspect_image(sheet.image, processor.image_processor, model.config)
    answers, pictures = [], []
    for question, _ in questions:
        chat = Chat(model, processor, [sheet.image])
        answers.append(" ".join(chat.ask(question, max_new_tokens=32).split()))
        maps = place_weights(attend(chat).weights.mean(dim=0), inspection)
        size = (TALL, round(TALL * sheet.width / sheet.height))
        pictures.append(
            draw_attended(inspection, maps, (maps.slices if len(maps.slices) else maps.overview).max(), size)
        )
    return answers, pictures


def draw_row(
    sheet: Sheet, questions: list[tuple[str, str]], answers: list[str], heats: list[Image.Image]
) -> Image.Image:
    """A document, and beside it each answer under the place where the model looked."""
    page = sheet.image.resize(heats[0].size, Image.Resampling.BICUBIC)
    width = page.width + GAP
    row = Image.new("RGB", (width * (1 + len(heats)) - GAP, TALL + 74), BACKGROUND)
    row.paste(page, (0, 0))
    drawn = ImageDraw.Draw(row)
    for number, ((question, truth), answer, heat) in enumerate(zip(questions, answers, heats, strict=True), start=1):
        left = number * width
        row.paste(heat, (left, 0))
        drawn.text((left, TALL + 6), question, fill=INK, font=MEDIUM)
        drawn.text((left, TALL + 26), answer, fill=RIGHT if answer == truth else WRONG, font=LARGE)
        if answer != truth:
            drawn.text((left, TALL + 53), f"Correct: {truth}", fill=MUTED, font=SMALL)
    return row


def draw_picture(rows: list[Image.Image]) -> Image.Image:
    size = (max(row.width for row in rows) + 2 * MARGIN, sum(row.height + GAP for row in rows) + 2 * MARGIN - GAP)
    picture, top = Image.new("RGB", size, BACKGROUND), MARGIN
    for row in rows:
        picture.paste(row, (MARGIN, top))
        top += row.height + GAP
    return picture


def main(out: str = "demo.png", model_folder: str = str(NANO / "checkpoint")) -> None:
    processor = AutoProcessor.from_pretrained(model_folder)
    model = AutoModelForImageTextToText.from_pretrained(model_folder, dtype="float32")
    table, rows = Table("document", "question", "answer", "truth", ""), []
    picture = Path(out)
    for (kind, *_), (sheet, questions) in zip(DOCUMENTS, draw_documents(), strict=True):
        save_picture(sheet.image, picture.with_name(f"{picture.stem}_{kind}.png"))
        answers, heats = ask_about(sheet, questions, model, processor)
        for (question, truth), answer in zip(questions, answers, strict=True):
            table.add_row(kind, question, answer, truth, "right" if answer == truth else "wrong")
        rows.append(draw_row(sheet, questions, answers, heats))
    save_picture(draw_picture(rows), picture)
    Console().print(table)
    print("Fonts and styles of the training, letters of 18 pixels or more, no answer cut by an edge; held-out values.")
    print(f"{out} shows where it looked.")


if __name__ == "__main__":
    main(*sys.argv[1:])
