# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The table in docs/ecosystem.md of what tests/ecosystem shows of other people's programs with our classes.

A test there says by `@pytest.mark.client("trl", "SFTTrainer: ...")` which distribution it runs, and what that does.
`pytest -m "" tests/ecosystem --write-table` writes the table of all tests.
"""

import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.support.tables import Row, replace_table


ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs/ecosystem.md"
RESULTS = pytest.StashKey[dict[str, tuple[Row, bool]]]()


def pytest_addoption(parser):
    parser.addoption("--write-table", action="store_true", help=f"write the results into {TABLE.name}")


def pytest_configure(config):
    config.addinivalue_line("markers", "client(distribution, what): a row of the table in docs/ecosystem.md")
    config.stash[RESULTS] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Together these tests take minutes."""
    for item in items:
        if item.get_closest_marker("client"):
            item.add_marker("slow")


def version_of(distribution: str) -> str:
    """Also of one that `make test` installs apart from all others."""
    apart = [str(folder) for folder in Path(sys.prefix).iterdir() if folder.is_dir()]
    return next(iter(distributions(name=distribution, path=[*sys.path, *apart]))).version


def row_of(item) -> Row:
    """What the table says of a test; the parameters of a test share one row."""
    distribution, what = item.get_closest_marker("client").args
    test = f"{item.path.relative_to(ROOT)}::{item.originalname}"
    return Row(distribution, version_of(distribution), what, f"`pytest -m '' {test}`")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if item.get_closest_marker("client") and (report.when == "call" or not report.passed):
        results, row = item.config.stash[RESULTS], row_of(item)
        results[row.command] = row, report.passed and results.get(row.command, (row, True))[1]
    return report


def pytest_sessionfinish(session):
    if session.config.getoption("--write-table"):
        results = session.config.stash[RESULTS].values()
        replace_table(TABLE, "clients", [(*row, "passes" if passed else "fails") for row, passed in results])
