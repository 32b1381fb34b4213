# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Stages 1 and 2 (paper 4.1): pre-training of the projector, and fine-tuning."""
