# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Training: recipes, stages, parameter groups, adapters, run state."""
