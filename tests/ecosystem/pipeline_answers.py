# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What `pipeline("image-text-to-text")` answers from a folder; run by itself, from the folder's own code alone.

python tests/ecosystem/pipeline_answers.py FOLDER SAVED

What is loaded from FOLDER answers, is saved in SAVED, and answers from there.
"""

import importlib.util
import json
import sys

import torch
from PIL import Image
from transformers import pipeline


ANSWER = {"max_new_tokens": 6, "return_full_text": False}


def draw(width, height):
    return Image.effect_mandelbrot((width, height), (-2, -1.2, 1, 1.2), 100).convert("RGB")


def say(text, *images, role="user"):
    """A message about images."""
    entries = [{"type": "image", "image": image} for image in images]
    return {"role": role, "content": [*entries, {"type": "text", "text": text}]}


WIDE, SMALL, TALL = draw(160, 60), draw(40, 30), draw(60, 130)
CHATS = {
    "one image": [say("What is this?", WIDE)],
    "a small one": [say("What may this be, please?", SMALL)],
    "two images": [say("Compare these.", TALL, SMALL)],
    "no image": [say("Name the capital of France.")],
    "three turns": [
        say("What is this?", SMALL),
        say("A fractal.", role="assistant"),
        say("And this?", TALL),
        say("Another.", role="assistant"),
        say("Which is larger?"),
    ],
}
PROMPTS = ["<image>\nWhat is this?", "<image>\nWhat may this be, please?"]


def answers_of(pipe):
    """To each of `CHATS`, and to two prompts at once."""
    answers = {name: pipe(text=chat, **ANSWER)[0]["generated_text"] for name, chat in CHATS.items()}
    both = pipe(images=[WIDE, SMALL], text=PROMPTS, **ANSWER)
    return answers | {"prompts": [answer["generated_text"] for answer in both]}


def batched_answers_of(pipe):
    """To each of `CHATS`, two at once."""
    return [answer["generated_text"] for [answer] in pipe(text=list(CHATS.values()), batch_size=2, **ANSWER)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert not importlib.util.find_spec("llava_uhd_v2_hf"), "the package can be imported"
    remote = pipeline("image-text-to-text", model=sys.argv[1], trust_remote_code=True)
    for part in (remote, remote.model):
        assert type(part).__module__.startswith("transformers_modules."), type(part)
    options = {"processor": remote.processor, "pipeline_class": type(remote)}
    objects = pipeline("image-text-to-text", remote.model, **options)
    remote.model.save_pretrained(sys.argv[2])
    remote.processor.save_pretrained(sys.argv[2])
    saved = pipeline(model=sys.argv[2], trust_remote_code=True)
    assert type(saved).__name__ == type(remote).__name__
    print(json.dumps([answers_of(remote), *map(batched_answers_of, (remote, objects, saved))]))
