# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The rules by which tests of transformers may be skipped."""

import pytest

from tests.upstream.skips import EXCEPTIONS, judge_skip


def test_there_are_at_most_ten_exceptions_and_each_names_its_line():
    assert len(EXCEPTIONS) <= 10
    assert all(reason.split(" ")[0].partition(".py:")[2].isdecimal() for reason in EXCEPTIONS.values())


@pytest.mark.parametrize(
    ("name", "message", "reason"),
    [
        ("test_args_overlap_kwargs", "anything", "exception"),
        ("test_cpu_offload", "Skipped: test requires accelerator", "hardware"),
        ("test_flash_attn_2_from_config", "Skipped: test requires Flash Attention", "hardware"),
        ("test_unstructured_kwargs_1_videos", "Skipped: video_processor attribute not present in X", "not applicable"),
        ("test_training", "Skipped: ModelTester is not configured to run training tests", None),
        ("test_torchvision", "Skipped: test is slow", None),
    ],
)
def test_a_skip_needs_a_listed_reason(name, message, reason):
    assert judge_skip(name, message) == reason
