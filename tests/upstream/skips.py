# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""For what reasons a test of transformers may be skipped here. Lines are those of transformers 5.23."""

import re


# The tests that can't run against our classes, and the line that forces it: at most ten.
EXCEPTIONS = {
    "test_args_overlap_kwargs": (
        "test_processing_common.py:1197 saves an image processor with a field of the test's own; ours refuses to load "
        "fields that it doesn't know"
    ),
    "test_call_numpy_4_channels": (
        "test_image_processing_common.py:812 keeps four channels, with `do_convert_rgb=False`; the model reads RGB"
    ),
    "test_image_processor_preprocess_arguments": (
        "test_image_processing_common.py:904 passes over processors without `_valid_processor_keys`, an attribute of "
        "transformers 4"
    ),
    "test_new_models_require_torchvision_backend": (
        "test_image_processing_common.py:998 asks for a twin of the image processor that resizes with torchvision; "
        "there is one, with PIL, as the checkpoints were trained"
    ),
    "test_override_instance_attributes_does_not_affect_other_instances": (
        "test_image_processing_common.py:912 needs a dict `size`; here sizes follow from the image"
    ),
    "test_pil_can_load_without_torchvision": (
        "test_image_processing_common.py:636 of 5.19 and 5.20 looks for it in `transformers.models`; later versions "
        "have `test_pil_can_run_without_torchvision` in its place, which runs"
    ),
    "test_resize_position_vector_embeddings": (
        "test_modeling_common.py:2381 resizes a table of positions; text models with rotary positions have none"
    ),
}

# What the machine doesn't have: an accelerator, or what needs one, or torchvision.
HARDWARE = r"test requires .*(accelerator|Flash Attention|MPS|kernels|deepspeed)|torchvision|less than 2 backends"

# What a test says that is about something our classes don't have, so that nothing is left to test.
NOT_APPLICABLE = "|".join(
    (
        r"(audio_processor|feature_extractor|video_processor) attribute not present",
        r"Processor has no (audio|video) processor",
        r"Processor doesn't accept videos",
        r"test requires (librosa|Torchcodec)",  # audio and video too
        r"Chat template does not support tools",
        r"Model is not an encoder-decoder",
        r"has no sparse experts|does not support grouped_mm|no `output_router_logits`",  # in our own code or config
        r"does not support sliding window mask",  # likewise
        r"has no axial RoPE layer",
        r"has no standardized RoPE module",  # of 5.19, which passes over Llama's
        r"No `_keep_in_fp32_modules_strict` defined",
        r"LlavaUhdV2Model does not support SDPA",  # a composite model in the test of the others
    )
)


def judge_skip(name: str, message: str) -> str | None:
    """Why a test was skipped: "exception", "hardware", "not applicable", or None for a reason that isn't listed.

    Args:
        name: the test's function.
        message: the reason it gave.
    """
    if name in EXCEPTIONS:
        return "exception"
    if re.search(HARDWARE, message):
        return "hardware"
    if re.search(NOT_APPLICABLE, message):
        return "not applicable"
    return None
