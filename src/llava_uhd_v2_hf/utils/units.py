# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Numbers with units, for messages."""


def describe_bytes(number: int) -> str:
    """Returns a number of bytes in two or three digits: 690 MB, 4.1 GB."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


__all__ = ["describe_bytes"]
