# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The command `llava-uhd-v2` for `accelerate launch`: finetune_deepspeed.py train sft ARGUMENTS.

As at real sizes, the projector's other order pays for images, but not for the patch of a batch without any.
"""

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_llava_uhd_v2


if __name__ == "__main__":
    projector_llava_uhd_v2.reordering_pays = lambda _, grid, __: grid != (1, 1)
    app()
