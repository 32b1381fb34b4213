# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""docs/ecosystem.md says of each test with a client what it shows, and of each version of transformers how it did."""

import configparser

from packaging.requirements import Requirement

from tests.support.client_table import ROOT, TABLE, row_of
from tests.support.tables import read_table


def test_every_client_is_in_the_table(request):
    rows = read_table(TABLE, "clients")
    assert rows and all(result == "passes" for *_, result in rows)
    written = {(client, what, command) for client, _, what, command, _ in rows}
    items = [item for item in request.session.items if item.get_closest_marker("client")]
    assert {(row.client, row.what, row.command) for row in map(row_of, items)} <= written
    for *_, command, _ in rows:
        path, _, name = command.strip("`").split()[-1].partition("::")
        assert f"def {name}(" in (ROOT / path).read_text()


def test_no_version_fails():
    rows = read_table(TABLE, "versions")
    assert len(rows) == 6 and all(int(passed) > 100 and failed == "0" for _, _, passed, failed, _ in rows)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    supported = next(Requirement(line) for line in lines if line.startswith("transformers")).specifier
    assert all(version.split()[0] in supported for version, *_ in rows)
