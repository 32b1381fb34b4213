# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Numbers with units."""

from llava_uhd_v2_hf.utils.units import describe_bytes


def test_bytes_in_words():
    assert [describe_bytes(number) for number in (0, 542_113_792, 3_400_000_000)] == ["0 MB", "542 MB", "3.4 GB"]
