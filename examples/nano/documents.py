# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Receipts, forms, tables, invoices, labels and charts, each drawn on a sheet.

Fields, tables and charts have other styles where they are held out.
"""

from collections.abc import Callable
from functools import partial

from sheet import Box, Fact, Sheet
from values import COLUMNS, FIELDS, characters, name, of_split, price, quantity, word


Bar = tuple[str, Box, int, Box]  # name and value of a bar of a chart, and where each stands

# how fields, tables and charts look; the first list is for training, the second held out
FIELD_STYLES = {"train": ("colon", "columns", "right", "stacked"), "other": ("dotted", "boxed")}
TABLE_STYLES = {"train": ("plain", "ruled", "header"), "other": ("striped",)}
CHART_STYLES = {"train": ("rows", "columns"), "other": ("framed",)}


def draw_style(styles: dict[str, tuple[str, ...]], sheet: Sheet) -> str:
    return sheet.source.choice(styles["train" if sheet.styles == "train" else "other"])


def write_title(sheet: Sheet, text: str, y: float, size: int) -> float:
    """A heading; returns where the next line begins."""
    align, x = sheet.source.choice((("l", 5.0), ("m", sheet.width / 2)))
    written = sheet.write(text, x, y, size, bold=sheet.source.random() < 0.5, align=align)
    return y + 1.5 * size if written else y


def write_fields(sheet: Sheet, y: float, size: int, count: int, left: float, right: float) -> float:
    """Fields with their values under one another; returns where the next line begins."""
    style = draw_style(FIELD_STYLES, sheet)
    bold = sheet.source.random() < 0.3
    used = {fact.name for fact in sheet.facts}
    labels = sheet.source.sample([label for label in FIELDS if label not in used], count)
    indent = left + max(sheet.length(label, size, bold) for label in labels) + size * sheet.source.uniform(0.7, 1.6)
    step = size * sheet.source.uniform(1.3, 1.7)
    for label in labels:
        value = of_split(FIELDS[label], sheet.split, sheet.source)
        shown = f"{label}:" if style == "colon" else label
        end = left + sheet.length(shown, size, bold)
        x, align, line = {
            "colon": (end + size * 0.5, "l", y),
            "columns": (indent, "l", y),
            "boxed": (indent + 2, "l", y),
            "right": (right, "r", y),
            "dotted": (right, "r", y),
            "stacked": (left, "l", y + size * 1.25),
        }[style]
        start = x if align == "l" else x - sheet.length(value, size)
        if start + sheet.length(value, size) > right + 1 or (align == "r" and start < end + size * 0.4):
            continue
        if line + 1.3 * size > sheet.height:
            break
        sheet.write(shown, left, y, size, bold=bold)
        box = sheet.write(value, x, line, size, align=align)
        if box is None:
            break
        if style == "dotted":
            for dot in range(int(end + 3), int(start - 2), 4):
                sheet.fill((dot, y + size * 0.85, dot + 1, y + size * 0.85 + 1), sheet.faint)
        if style == "boxed":
            sheet.frame((left - 2, y - size * 0.15, right, y + size * 1.2))
            sheet.rule(indent - 2, y - size * 0.15, indent - 2, y + size * 1.2)
        sheet.facts.append(Fact("field", label, f"What is the {label}?", value, box, size))
        y = line + step
    return y


def fit_columns(sheet: Sheet, size: int) -> tuple[list[str], list[float]]:
    """Columns that fit on a sheet, and the widths of their values."""
    columns = sheet.source.sample(sorted(COLUMNS), sheet.source.randint(1, 3))
    while columns:
        wanted = [max(sheet.length(text, size) for text in (column, "0000.00")) + size for column in columns]
        if sum(wanted) + 4.5 * size < sheet.width - 10:
            return columns, wanted
        columns.pop()
    return [], []


def write_table(sheet: Sheet, y: float, size: int, most_rows: int) -> float:
    """A table whose rows are named by their first column; returns where the next line begins."""
    style = draw_style(TABLE_STYLES, sheet)
    columns, wanted = fit_columns(sheet, size)
    if not columns:
        return y
    spare = (sheet.width - 10 - sum(wanted) - 4.5 * size) / (len(columns) + 1)
    edges = [5 + 4.5 * size + spare]
    for length in wanted:
        edges.append(edges[-1] + length + spare)
    step = size * sheet.source.uniform(1.35, 1.7)
    rows = min(most_rows, int((sheet.height - y - size) / step) - 1)
    if rows < 1:
        return y
    if style in ("header", "striped"):
        sheet.fill((3, y - size * 0.15, sheet.width - 3, y + size * 1.15), sheet.faint)
    sheet.write("Item", 5, y, size, bold=True)
    for column, edge in zip(columns, edges[1:]):
        sheet.write(column, edge - size * 0.5, y, size, bold=True, align="r")
    top, names = y - size * 0.2, set()
    for number in range(rows):
        y += step
        if style == "striped" and number % 2:
            band = tuple(min(part + 35, 255) for part in sheet.faint)
            sheet.fill((3, y - size * 0.15, sheet.width - 3, y + size * 1.15), band)
        row = of_split(word, sheet.split, sheet.source)
        if row in names or sheet.length(row, size) > edges[0] - 5:
            row = f"{row[:4]}{number}"
        names.add(row)
        sheet.write(row, 5, y, size)
        write_cells(sheet, row, columns, edges[1:], [length - size * 0.4 + spare for length in wanted], y, size)
        if style == "ruled":
            sheet.rule(3, y - size * 0.25, sheet.width - 3, y - size * 0.25)
    if style == "ruled":
        sheet.frame((3, top, sheet.width - 3, y + size * 1.2))
    return y + step


def write_cells(
    sheet: Sheet, row: str, columns: list[str], edges: list[float], room: list[float], y: float, size: int
) -> None:
    """The values of a row, each up to the right edge of its column."""
    for column, edge, most in zip(columns, edges, room):
        value = of_split(COLUMNS[column], sheet.split, sheet.source)
        if sheet.length(value, size) > most:
            value = of_split(quantity, sheet.split, sheet.source)
        box = sheet.write(value, edge - size * 0.5, y, size, align="r")
        if box is not None:
            question = f"What is the {column} of {row}?"
            sheet.facts.append(Fact("cell", f"{row} {column}", question, value, box, size))


def receipt(sheet: Sheet, size: int) -> None:
    source = sheet.source
    y = write_title(sheet, of_split(name, sheet.split, source), 5, size + source.randint(0, 4))
    if source.random() < 0.5:
        y = write_fields(sheet, y, size, 1, 5, sheet.width - 5)
    step, names, total = size * source.uniform(1.3, 1.6), set(), 0.0
    for _ in range(20):
        if y + 3 * step > sheet.height or len(names) == 9:
            break
        item, cost = of_split(word, sheet.split, source), of_split(price, sheet.split, source)
        if item in names or sheet.length(f"{item} {cost}", size) > sheet.width - 10:
            continue
        names.add(item)
        total += float(cost)
        sheet.write(item, 5, y, size)
        box = sheet.write(cost, sheet.width - 5, y, size, align="r")
        sheet.facts.append(Fact("cell", f"{item} Price", f"What is the Price of {item}?", cost, box, size))
        y += step
    sheet.rule(5, y, sheet.width - 5, y)
    bold, shown = source.random() < 0.5, f"{total:.2f}"
    fits = sheet.length(f"Total  {shown}", size, bold) < sheet.width - 10 and y + 4 + size * 1.3 < sheet.height
    if names and fits and all(fact.name != "Total" for fact in sheet.facts):
        sheet.write("Total", 5, y + 4, size, bold=bold)
        if box := sheet.write(shown, sheet.width - 5, y + 4, size, bold=bold, align="r"):
            sheet.facts.append(Fact("field", "Total", "What is the Total?", shown, box, size))


def form(sheet: Sheet, size: int) -> None:
    y = write_title(sheet, of_split(word, sheet.split, sheet.source) + " form", 6, size + sheet.source.randint(0, 4))
    if sheet.width > 22 * size and sheet.source.random() < 0.5:
        middle = sheet.width / 2
        write_fields(sheet, y, size, 7, 6, middle - 4)
        write_fields(sheet, y, size, 7, middle + 4, sheet.width - 6)
    else:
        write_fields(sheet, y, size, 9, 6, sheet.width - 6)


def table(sheet: Sheet, size: int) -> None:
    y = write_title(sheet, of_split(name, sheet.split, sheet.source), 5, size + sheet.source.randint(0, 4))
    write_table(sheet, y, size, 10)


def invoice(sheet: Sheet, size: int) -> None:
    source = sheet.source
    y = write_title(sheet, f"{of_split(word, sheet.split, source)} Ltd", 5, size + source.randint(0, 5))
    y = write_fields(sheet, y, size, source.randint(1, 3), 5, sheet.width - 5) + size * 0.5
    y = write_table(sheet, y, size, source.randint(2, 6)) + size * 0.3
    write_fields(sheet, y, size, source.randint(1, 2), 5, sheet.width - 5)


def label(sheet: Sheet, size: int) -> None:
    sheet.frame((2, 2, sheet.width - 3, sheet.height - 3))
    write_fields(sheet, 7, size, sheet.source.randint(1, 4), 7, sheet.width - 7)


def chart(sheet: Sheet, size: int) -> None:
    """Bars with their names and values."""
    source, style = sheet.source, draw_style(CHART_STYLES, sheet)
    y = write_title(sheet, of_split(name, sheet.split, source), 5, size)
    values: list[int] = source.sample(range(5, 100), source.randint(2, 6))
    colour = tuple(source.randint(60, 200) for _ in range(3))
    if style == "columns":
        bars = draw_columns(sheet, y, size, values, colour)
    else:
        bars = draw_bars(sheet, y, size, values, sheet.frame if style == "framed" else partial(sheet.fill, ink=colour))
    ask_about_bars(sheet, bars, size)


def draw_columns(sheet: Sheet, y: float, size: int, values: list[int], colour: tuple[int, ...]) -> list[Bar]:
    step = (sheet.width - 10) / len(values)
    floor, unit = sheet.height - 2 * size, (sheet.height - y - 3.6 * size) / max(values)
    if unit <= 0 or step < 3 * size:
        return []
    bars = []
    for number, value in enumerate(values):
        middle = 5 + step * (number + 0.5)
        bar = of_split(word, sheet.split, sheet.source)[: max(int(step / size * 1.4), 2)]
        sheet.fill((middle - step * 0.3, floor - unit * value, middle + step * 0.3, floor), colour)
        box = sheet.write(str(value), middle, floor - unit * value - size * 1.3, size, align="m")
        named = sheet.write(bar, middle, floor + 2, size, align="m")
        if named and box:
            bars.append((bar, named, value, box))
    return bars


def draw_bars(sheet: Sheet, y: float, size: int, values: list[int], draw: Callable[[Box], None]) -> list[Bar]:
    """Bars that lie; `draw` draws one."""
    step = max(min((sheet.height - y) / len(values), 2 * size), 1.35 * size)
    left, unit = 5 + 5 * size, (sheet.width - 10 - 7 * size) / max(values)
    bars = []
    for value in values:
        bar = of_split(word, sheet.split, sheet.source)[:7]
        if unit <= 0 or y + 1.3 * size > sheet.height:
            break
        named = sheet.write(bar, left - 4, y, size, align="r")
        if named is None:
            break
        draw((left, y, left + unit * value, y + size))
        box = sheet.write(str(value), left + unit * value + 3, y, size)
        if box:
            bars.append((bar, named, value, box))
        y += step
    return bars


def ask_about_bars(sheet: Sheet, bars: list[Bar], size: int) -> None:
    if len(bars) < 2 or len({bar for bar, *_ in bars}) < len(bars):
        return
    for bar, _, value, box in bars:
        sheet.facts.append(Fact("chart", bar, f"What is the value of {bar}?", str(value), box, size))
    for question, choose in (("Which bar is the longest?", max), ("Which bar is the shortest?", min)):
        bar, box, *_ = choose(bars, key=lambda entry: entry[2])
        sheet.facts.append(Fact("chart", question, question, bar, box, size))


def lines(sheet: Sheet, size: int) -> None:
    """Random words and characters in lines; for learning to read, not asked about."""
    source, y = sheet.source, float(sheet.source.randint(2, 20))
    count = source.randint(1, max(sheet.height // 18, 2))
    while count and y + 1.4 * size < sheet.height:
        text = ""
        limit = source.uniform(0.2, 0.95) * (sheet.width - 10)
        for _ in range(40):
            draw = source.choice((word, price, None))
            more = of_split(draw, sheet.split, source) if draw else characters(source, source.randint(1, 7))
            if sheet.length(f"{text} {more}", size) > limit:
                break
            text = f"{text} {more}".strip()
        room = sheet.width - 8 - sheet.length(text, size)
        if text:
            sheet.write(text, 4 + source.uniform(0, room), y, size, bold=source.random() < 0.2)
        y += size * source.uniform(1.25, 2.2)
        count -= 1


# kind -> how it is drawn, and the slices' areas that its sheet has at least and at most
KINDS: dict[str, tuple[Callable[[Sheet, int], None], int, int]] = {
    "receipt": (receipt, 2, 6),
    "form": (form, 2, 6),
    "table": (table, 2, 6),
    "invoice": (invoice, 3, 6),
    "label": (label, 1, 3),
    "chart": (chart, 2, 6),
}
