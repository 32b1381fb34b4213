# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Answers conversations with vLLM, in its own environment.

    python answer.py REQUESTS ANSWERS

REQUESTS is JSON: `model`, `options` of `vllm.LLM`, `max_tokens` and `groups`: `conversations`, whose images are files,
and their `mm_processor_kwargs`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from vllm import LLM, SamplingParams


def with_images(conversation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "role": message["role"],
            "content": [
                {"type": "image_pil", "image_pil": Image.open(entry["image"]).convert("RGB")}
                if entry["type"] == "image"
                else entry
                for entry in message["content"]
            ],
        }
        for message in conversation
    ]


def describe(model: Any) -> dict[str, Any]:
    """The module of its class, whether its projector runs in the fast order, and the projector's bytes."""
    projector = model.model.visual.projector
    storages = {tensor.data_ptr(): tensor.nbytes for tensor in (*projector.parameters(), *projector.buffers())}
    return {
        "module": type(model).__module__,
        "fast_order": hasattr(projector, "can_reorder") and projector.can_reorder(),
        "bytes": sum(storages.values()),
    }


def main(requests: Path, answers: Path) -> None:
    values = json.loads(requests.read_text())
    options = {"dtype": "float32", "enforce_eager": True, "max_model_len": 2048, "max_num_seqs": 16} | values[
        "options"
    ]
    llm = LLM(values["model"], **options)
    [about] = llm.apply_model(describe)
    sampling = SamplingParams(temperature=0, max_tokens=values["max_tokens"])
    ids = []
    for group in values["groups"]:
        conversations = list(map(with_images, group["conversations"]))
        outputs = llm.chat(
            conversations, sampling, mm_processor_kwargs=group.get("mm_processor_kwargs"), use_tqdm=False
        )
        ids.append([[list(output.prompt_token_ids), list(output.outputs[0].token_ids)] for output in outputs])
    answers.write_text(json.dumps({"about": about, "ids": ids}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
