# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Measures the memory that tower and projector take to encode an image, against the estimate of `inspect`.

    python benchmarks/vision_memory.py HEIGHT WIDTH [--max-slices 6] [--dtype bfloat16] [--levels 0 1 2]

One image a process, of the default model's size, with random weights: on the GPU where there is one, else on the CPU
(Linux), which takes minutes. The language model is left out.
"""

import argparse
import ctypes

import torch

from llava_uhd_v2_hf import LlavaUhdV2Config
from llava_uhd_v2_hf.inference.cost import estimate_cost
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan, plan_slices
from llava_uhd_v2_hf.model.vision_llava_uhd_v2 import LlavaUhdV2VisionEncoder
from llava_uhd_v2_hf.utils.units import describe_bytes


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def read_status(name: str) -> int:
    """A line of this process's status, in bytes."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def build_encoder(config: LlavaUhdV2Config, dtype: torch.dtype) -> LlavaUhdV2VisionEncoder:
    """Straight into its dtype, so that nothing else was ever allocated."""
    torch.set_default_dtype(dtype)
    with torch.device(DEVICE):
        encoder = LlavaUhdV2VisionEncoder(config).eval()
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    return encoder


def reset_peak() -> int:
    """Starts a new peak of memory; returns the bytes that are there now."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps would hide what comes
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return read_status("VmRSS")


def read_peak() -> int:
    """Bytes of the peak since [`reset_peak`]."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else read_status("VmHWM")


@torch.inference_mode()
def encode(encoder: LlavaUhdV2VisionEncoder, plan: SlicePlan) -> None:
    encoder(torch.randn(1, plan.num_patches(14), 3 * 14 * 14, device=DEVICE), [plan])


def measure_peak(encoder: LlavaUhdV2VisionEncoder, plan: SlicePlan) -> int:
    """Bytes above what is there before the image is encoded."""
    encode(encoder, SlicePlan((0, 0), (0, 0), (28, 28)))  # libraries start their own memory
    before = reset_peak()
    encode(encoder, plan)
    return read_peak() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("--max-slices", type=int, default=6)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--levels", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()

    config = LlavaUhdV2Config(projector_config={"levels": arguments.levels})
    plan = plan_slices(
        arguments.height, arguments.width, max_slices=arguments.max_slices, slice_resolution=336, patch_size=14
    )
    dtype = getattr(torch, arguments.dtype)
    estimate = estimate_cost([plan], config, dtype).vision_bytes
    measured = measure_peak(build_encoder(config, dtype), plan)
    print(
        f"{DEVICE} {arguments.dtype} levels {arguments.levels}: {plan.num_slices} slices, {plan.num_patches(14)} "
        f"patches, estimate {describe_bytes(estimate)}, measured {describe_bytes(measured)}, "
        f"{estimate / measured:.2f} of it"
    )


if __name__ == "__main__":
    main()
