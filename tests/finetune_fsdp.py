# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The command `llava-uhd-v2` for `accelerate launch`, with FSDP on CPUs: finetune_fsdp.py train sft ARGUMENTS.

accelerate takes the configuration's FSDP for accelerators alone. All that it does then works on CPUs too.
"""

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from llava_uhd_v2_hf.cli import app


def shard_on_cpus():
    start = AcceleratorState.__init__

    def start_sharded(self, *args, fsdp_plugin=None, **kwargs):
        start(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = start_sharded


if __name__ == "__main__":
    shard_on_cpus()
    app()
