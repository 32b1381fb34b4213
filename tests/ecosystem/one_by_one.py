# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Answers by transformers alone, one by one, to hold those of an evaluation against."""

from transformers import AutoModelForImageTextToText, AutoProcessor


TEMPLATE = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}


class OneByOne:
    """Answers texts about images, in at most six tokens."""

    def __init__(self, checkpoint):
        self.processor = AutoProcessor.from_pretrained(checkpoint)
        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint)

    def __call__(self, image, text):
        chat = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
        inputs = self.processor.apply_chat_template(chat, **TEMPLATE)
        tokens = self.model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        return self.processor.decode(tokens, skip_special_tokens=True).strip()


__all__ = ["OneByOne"]
