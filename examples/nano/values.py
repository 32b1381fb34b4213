# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What stands in the rendered documents: words and values drawn at random, other ones in every split."""

import random
import string
import zlib
from collections.abc import Callable


_SYLLABLES = """
ba be bo ca co da de do fa fe ga go ha he ja jo ka ke ki la le li lo lu ma me mi mo na ne ni no pa pe po ra re ri ro ru
sa se si so ta te ti to tu va ve vi wa we ya za zo bren chan dor fin gor hal kern lan mar nor pel quin ros shel thor
tram ul ven wick xan york zen ster ford ton ley sby
"""
SYLLABLES = tuple(_SYLLABLES.split())
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
CHARACTERS = string.ascii_letters + string.digits + "-./:,$%#&()+*'"


def word(source: random.Random, longest: int = 3) -> str:
    return "".join(source.choice(SYLLABLES) for _ in range(source.randint(2, longest))).capitalize()


def name(source: random.Random) -> str:
    return f"{word(source, 2)} {word(source, 2)}"


def price(source: random.Random) -> str:
    return f"{source.choice((source.uniform(0.5, 10), source.uniform(10, 100), source.uniform(100, 999))):.2f}"


def date(source: random.Random) -> str:
    day, month, year = source.randint(1, 28), source.randint(1, 12), source.randint(1990, 2039)
    return source.choice(
        (f"{year}-{month:02d}-{day:02d}", f"{day:02d}/{month:02d}/{year}", f"{day} {MONTHS[month - 1]} {year}")
    )


def clock(source: random.Random) -> str:
    return f"{source.randint(0, 23):02d}:{source.randint(0, 59):02d}"


def code(source: random.Random) -> str:
    letters = "".join(source.choices(string.ascii_uppercase, k=source.randint(1, 3)))
    return f"{letters}{source.choice('-/ ')}{source.randint(10, 99999)}".replace(" ", "")


def number(source: random.Random) -> str:
    return str(source.randint(100, 10 ** source.randint(3, 7)))


def phone(source: random.Random) -> str:
    return f"{source.randint(100, 999)}-{source.randint(1000, 9999)}"


def percent(source: random.Random) -> str:
    return f"{source.randint(10, 999) / 10:.1f}%"


def quantity(source: random.Random) -> str:
    return str(source.randint(1, 99))


def street(source: random.Random) -> str:
    return f"{source.randint(1, 399)} {word(source)} {source.choice(('St', 'Rd', 'Ave', 'Lane'))}"


def characters(source: random.Random, length: int) -> str:
    """Of any kind, so that nothing but the picture tells them."""
    return "".join(source.choices(CHARACTERS, k=length))


# what a field of a document is called -> how its values look
FIELDS: dict[str, Callable[[random.Random], str]] = {
    **dict.fromkeys(("Date", "Due", "Issued", "Valid until", "Born", "Delivered", "Start", "End", "Printed"), date),
    **dict.fromkeys(("Time", "Opens", "Closes", "Arrival", "Departure"), clock),
    **dict.fromkeys(("Order", "Invoice", "Ref", "Serial", "Batch", "Ticket", "Case", "Model", "Gate", "Permit"), code),
    **dict.fromkeys(("Customer", "Member", "Account", "Badge", "Policy", "Licence", "Item no", "Lot"), number),
    **dict.fromkeys(("Name", "Clerk", "Doctor", "Seller", "Buyer", "Driver", "Owner", "Author", "Manager"), name),
    **dict.fromkeys(("City", "Country", "Region", "Brand", "Colour", "Team", "Street name", "Harbour"), word),
    **dict.fromkeys(("Phone", "Fax", "Mobile"), phone),
    **dict.fromkeys(("Total", "Tax", "Subtotal", "Paid", "Change", "Balance", "Deposit", "Fee", "Discount"), price),
    **dict.fromkeys(("Rate", "Share", "Humidity", "Score"), percent),
    **dict.fromkeys(("Address", "Street", "Depot"), street),
    **dict.fromkeys(("Pieces", "Seats", "Age", "Room", "Floor", "Weight"), quantity),
}
COLUMNS: dict[str, Callable[[random.Random], str]] = {
    "Qty": quantity,
    "Price": price,
    "Code": code,
    "Date": date,
    "Rate": percent,
    "Stock": number,
    "City": word,
    "Sum": price,
    "Time": clock,
    "Lot": number,
}


def of_split(draw: Callable[[random.Random], str], split: str, source: random.Random) -> str:
    """A value that no other split draws: of every ten values, eight are for training, one for each of the others.

    Quantities and clock times are too few to be divided, and the same everywhere. What is made of values, the total of
    a receipt or a name that is cut to fit, may be that of another split.
    """
    if draw in (quantity, clock):
        return draw(source)
    while True:
        value = draw(source)
        if split == {8: "validation", 9: "test"}.get(zlib.crc32(value.encode()) % 10, "train"):
            return value
