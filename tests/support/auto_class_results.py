# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a checkpoint computes through the five Auto classes, in a process of its own; see auto_classes.py."""

import subprocess
import sys

import torch
from safetensors.torch import load_file

from tests.support.paths import ROOT


def compute(source, name, output, python=sys.executable, isolated=False, extensions=(), **options):
    """What a checkpoint computes through the five Auto classes, in a process of its own."""
    command = [python, *(["-I"] if isolated else []), ROOT / "tests/support/auto_classes.py", source, name, output]
    command += extensions
    done = subprocess.run(command, text=True, capture_output=True, stdin=subprocess.DEVNULL, **options)
    assert done.returncode == 0, done.stderr
    return load_file(output)


def assert_same(results, expected, atol=0.0):
    """Equal; where the same weights come out of other files, to rounding (they lie elsewhere in memory)."""
    assert results.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(results[name], expected[name], rtol=0, atol=atol)
