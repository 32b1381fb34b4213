# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Images decoded in processes of their own: limits of time, memory and scans, and what happens when one dies."""

import asyncio
import re
import time

import numpy as np
import pytest
from anyio import CapacityLimiter
from serve_clients import encode, jpeg_of_scans, picture  # noqa: E402

from llava_uhd_v2_hf.model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from llava_uhd_v2_hf.serve.decoding import SCANS, Damage, Decoders, check_scans
from llava_uhd_v2_hf.serve.limits import Limits


PROCESSOR = LlavaUhdV2ImageProcessor(slice_resolution=56)


def decode(*files, seconds=60.0, limits=None):
    async def run():
        decoders = Decoders(PROCESSOR, limits or Limits())
        async with asyncio.timeout(seconds):
            return await decoders.decode(files, [4] * len(files), CapacityLimiter(2))

    return asyncio.run(run())


@pytest.mark.parametrize("count", [1, 10, SCANS, SCANS + 1, 1000])
def test_scans_are_counted(count):
    data = jpeg_of_scans(64, max(count, 10)) if count > 1 else encode(picture(64, 64), "JPEG")
    thumbnail = data[:2] + b"\xff\xe1" + (2 + 3 * 200).to_bytes(2, "big") + b"\xff\xda\0" * 200 + data[2:]
    for file in (data, thumbnail):  # what is inside of another segment is no scan
        if count > SCANS:
            with pytest.raises(ValueError, match=f"more than {SCANS} scans"):
                check_scans(file)
        else:
            check_scans(file)


@pytest.mark.slow
def test_views_are_those_of_the_image_processor():
    pictures = [picture(200, 90, 1), picture(60, 60, 2), picture(300, 300, 3)]
    views, expected = decode(*map(encode, pictures)), PROCESSOR(pictures, max_slices=4, return_tensors="np")
    assert set(views) == set(expected)
    for name, values in expected.items():
        assert views[name].dtype == values.dtype and np.array_equal(views[name], values)


HEAVY = jpeg_of_scans(5000, SCANS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "words"),
    [({"decode_seconds": 0.5}, "longer than 0.5 seconds"), ({"decode_bytes": 20 << 20}, "memory|Memory")],
)
def test_beyond_a_limit(limit, words):
    start = time.monotonic()
    damage = decode(HEAVY, HEAVY, HEAVY, limits=Limits(**limit))
    assert isinstance(damage, Damage) and re.search(words, damage.message)
    assert time.monotonic() - start < 10
    assert isinstance(decode(encode(picture(56, 56))), dict)


@pytest.mark.slow
def test_cancelled_work_ends():
    decode(encode(picture(56, 56)))  # the fork server has started
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        decode(*[HEAVY] * 5, seconds=0.5)
    assert time.monotonic() - start < 1.5
