# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Values that all released models share."""

KNOWN_VISION_TOWER = "clip-vit-large-patch14-336"  # its shape is DEFAULT_VISION_CONFIG
MAX_SLICES = 9  # with which the released models were evaluated
# The released code has these two ids for every text model.
ROW_SEPARATOR_ID = 13
SLICE_SEPARATOR_ID = 29892
