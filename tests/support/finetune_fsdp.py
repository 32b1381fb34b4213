# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The command `llava-uhd-v2` for `accelerate launch`, with FSDP on CPUs: finetune_fsdp.py train sft ARGUMENTS.

accelerate takes its configuration of FSDP for accelerators alone, though what it then does needs none. The projector
runs in the order that pays at real sizes.
"""

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_llava_uhd_v2


def shard_on_cpus():
    start = AcceleratorState.__init__

    def start_sharded(self, *args, fsdp_plugin=None, **kwargs):
        start(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:  # from here on as for accelerators
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = start_sharded


if __name__ == "__main__":
    shard_on_cpus()
    projector_llava_uhd_v2.reordering_pays = lambda *_: True
    app()
