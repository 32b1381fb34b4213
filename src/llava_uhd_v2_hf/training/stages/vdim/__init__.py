# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Stage 0: pre-training of the up-sampler (paper 3.2)."""
