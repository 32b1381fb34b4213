# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Models of ours in other people's evaluation harnesses, with a record of everything that a score depends on."""
