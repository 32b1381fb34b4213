# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Where the repository and its recordings lie."""

from pathlib import Path


ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
