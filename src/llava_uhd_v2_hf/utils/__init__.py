# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What every room may use: atomic writes, units, strict YAML, seeded draws."""
