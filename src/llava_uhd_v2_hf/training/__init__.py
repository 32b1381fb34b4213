# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Training: recipes, stage 0 (the pre-training of the up-sampler), and the data of fine-tuning."""
