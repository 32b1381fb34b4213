# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Spoilt checkpoints: each is converted or refused in a line, within limits of memory and without a trace outside."""

import os
import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT


@pytest.mark.slow
def test_spoilt_checkpoints():
    command = [sys.executable, "-m", "tests.support.fuzz_conversion", "--cases", "150", "--seed", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "0 of 150 failed" in result.stdout
    outcomes = re.findall(r"(\d+) written +(\d+) refused +(\d+) failed", result.stdout)
    assert len(outcomes) == 7 and all(int(written) and int(refused) for written, refused, _ in outcomes)
