# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A sheet of paper that is written on, and knows what stands where on it."""

import random
from dataclasses import dataclass, field

from fonts import draw_family, load_font
from PIL import Image, ImageDraw


Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the sheet


@dataclass
class Fact:
    """Something that can be asked about a sheet.

    Args:
        kind: `"field"`, `"cell"`, `"chart"`.
        name: of the field, of the cell or of the bar.
        question: about it.
        value: the exact answer.
        box: where the value stands.
        size: of its letters, in pixels of the sheet.
    """

    kind: str
    name: str
    question: str
    value: str
    box: Box
    size: int


@dataclass
class Sheet:
    """A sheet of so many pixels, in a random family of fonts, ink and paper.

    Args:
        height, width: in pixels.
        split: whose values are used.
        source: of everything random.
        scale: how many pixels of the picture a pixel of the sheet has.
        look: the splits whose fonts and whose styles of fields, tables and charts are used; by default `split`.
    """

    height: int
    width: int
    split: str
    source: random.Random
    scale: int = 1
    look: tuple[str, str] | None = None
    texts: list[tuple[str, Box]] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw = self.source.randint
        self.paper = tuple([draw(225, 255) for _ in range(3)])
        self.ink = tuple([draw(0, 70) for _ in range(3)])
        self.faint = tuple([draw(150, 215) for _ in range(3)])
        fonts, self.styles = self.look or (self.split, self.split)
        self.faces = draw_family(fonts, self.source)
        self.image = Image.new("RGB", (self.width * self.scale, self.height * self.scale), self.paper)
        self.draw = ImageDraw.Draw(self.image)

    def length(self, text: str, size: int, bold: bool = False) -> float:
        return load_font(self.faces[bold], size * self.scale).getlength(text) / self.scale

    def write(
        self, text: str, x: float, y: float, size: int, *, bold: bool = False, align: str = "l", ink=None
    ) -> Box | None:
        """Writes a line whose letters' tops are at `y`; `align` is l, m or r of `x`. None if it doesn't fit."""
        length = self.length(text, size, bold)
        left = x - {"l": 0, "m": length / 2, "r": length}[align]
        box = (left, y, left + length, y + size)
        if left < 1 or box[2] > self.width - 1 or y < 0 or box[3] + size / 4 > self.height:
            return None
        font = load_font(self.faces[bold], size * self.scale)
        self.draw.text((left * self.scale, y * self.scale), text, ink or self.ink, font=font)
        self.texts.append((text, box))
        return box

    def rule(self, left: float, top: float, right: float, bottom: float, ink=None) -> None:
        self.draw.line([edge * self.scale for edge in (left, top, right, bottom)], ink or self.ink, self.scale)

    def fill(self, box: Box, ink) -> None:
        self.draw.rectangle([edge * self.scale for edge in box], fill=ink)

    def frame(self, box: Box) -> None:
        self.draw.rectangle([edge * self.scale for edge in box], outline=self.ink, width=self.scale)

    def lines(self) -> list[str]:
        """The text, line by line; what stands side by side is one line."""
        rows: dict[int, list[tuple[float, str]]] = {}
        for text, (left, top, *_) in self.texts:
            rows.setdefault(round(top), []).append((left, text))
        return [" ".join(text for _, text in sorted(row)) for _, row in sorted(rows.items())]

    def place(self, box: Box) -> str | None:
        """Which quarter of the sheet a box is in; None near the middle lines."""
        x, y = (box[0] + box[2]) / 2 / self.width, (box[1] + box[3]) / 2 / self.height
        if min(abs(x - 0.5), abs(y - 0.5)) < 0.06:
            return None
        return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
