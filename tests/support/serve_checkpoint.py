# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Fixtures of the server's tests: a tiny checkpoint that speaks words without end, and its answers by `generate`."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor


def write_talker(tiny_checkpoint: Path, folder: Path) -> Path:
    """A copy that never generates single bytes or the end token: any number of its tokens has a text."""
    shutil.copytree(tiny_checkpoint, folder)
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    bytes_ = [index for token, index in tokenizer.get_vocab().items() if token.startswith("<0x")]
    settings["suppress_tokens"] = sorted({*settings["suppress_tokens"], *bytes_, *tokenizer.all_special_ids})
    path.write_text(json.dumps(settings))
    return folder


class Reference:
    """Answers without the server: the processor, `generate` with one prompt, `decode`.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path):
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder)

    def inputs(self, request: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Of the model, for the arguments of a request."""
        details = []
        for message in request["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else ():
                details += [part["image_url"].get("detail")] if part["type"] == "image_url" else []
        own = self.processor.image_processor.max_slices
        slices = {"max_slices": [1 if detail == "low" else own for detail in details]} if details else {}
        return self.processor.apply_chat_template(
            [{**message, "content": self._content(message["content"])} for message in request["messages"]],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=slices,
        )

    def _content(self, content: Any) -> Any:
        if isinstance(content, str):
            return content
        return [
            part if part["type"] == "text" else {"type": "image", "image": part["image_url"]["url"]}
            for part in content
        ]

    def tokens(self, request: dict[str, Any]) -> list[int]:
        """Of the greedy answer, without a look at the stop strings."""
        inputs = self.inputs(request)
        ids = self.model.generate(**inputs, max_new_tokens=request["max_tokens"], do_sample=False)
        return ids[0, inputs["input_ids"].shape[1] :].tolist()

    def text(self, tokens: list[int]) -> str:
        """What they say."""
        return self.processor.decode(tokens, skip_special_tokens=True)

    def answer(self, request: dict[str, Any]) -> str:
        """The greedy answer up to the first of the stop strings."""
        text = self.text(self.tokens(request))
        stop = request.get("stop", [])
        places = [text.find(end) for end in ([stop] if isinstance(stop, str) else stop)]
        return text[: min([place for place in places if place >= 0], default=len(text))]


@pytest.fixture(scope="module")
def talker(tiny_checkpoint, tmp_path_factory):
    return write_talker(tiny_checkpoint, tmp_path_factory.mktemp("talker") / "model")


@pytest.fixture(scope="module")
def answers_alone(talker):
    return Reference(talker)
