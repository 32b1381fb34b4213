# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Runs transformers' own tests: skips the exceptions, and fails a test that is skipped for a reason not listed."""

import pytest

from tests.upstream.skips import EXCEPTIONS, judge_skip


# Marks that transformers puts on its tests.
MARKS = ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test")


def pytest_configure(config):
    for name in MARKS:
        config.addinivalue_line("markers", f"{name}: a mark of transformers' own tests")


def pytest_ignore_collect(collection_path, config):
    """Importing the files downloads transformers' tests, which a run without slow tests needn't do."""
    if config.getoption("markexpr") == "not slow" and collection_path.name.endswith("_llava_uhd_v2.py"):
        return True


def pytest_collection_modifyitems(items):
    for item in items:
        if item.name in EXCEPTIONS:
            item.add_marker(pytest.mark.skip(reason=EXCEPTIONS[item.name]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.outcome == "skipped":
        message = report.longrepr[2]
        reason = judge_skip(item.name, message)
        report.not_applicable = reason == "not applicable"
        if reason is None:
            report.outcome = "failed"
            report.longrepr = f"{message}\nThis reason is not listed in {item.path.with_name('skips.py')}."
    return report
