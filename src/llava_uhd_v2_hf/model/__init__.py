# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Everything that travels to the Hub with a checkpoint as remote code, and nothing else."""
