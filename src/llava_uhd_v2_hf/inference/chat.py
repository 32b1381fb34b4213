# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A conversation about images that encodes them once: the cache of a turn serves the next."""

from typing import Any

import torch
from PIL import Image
from transformers import Cache
from transformers.generation.streamers import BaseStreamer

from ..model.modeling_llava_uhd_v2 import CACHE_NAME, LlavaUhdV2ForConditionalGeneration
from ..model.processing_llava_uhd_v2 import LlavaUhdV2Processor


class Chat:
    """Greedy answers to one question after another; the images stand before the first.

    Every turn renders the whole conversation anew and reads only what the cache doesn't hold yet, so an answer is what
    it would be without the cache.

    Args:
        model: where it runs and in which dtype is the caller's choice.
        processor: the one that belongs to the model.
        images: RGB, in the order in which the model sees them; there may be none.
        max_slices: largest number of slices of an image; None is the processor's own.
    """

    def __init__(
        self,
        model: LlavaUhdV2ForConditionalGeneration,
        processor: LlavaUhdV2Processor,
        images: list[Image.Image],
        max_slices: int | None = None,
    ):
        self.model = model
        self.processor = processor
        self.settings = {} if max_slices is None else {"max_slices": max_slices}
        self.opening: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
        self.messages: list[dict[str, Any]] = []
        self.cache: Cache | None = None
        self.cached_ids = torch.empty(0, dtype=torch.long)
        self.sequence = torch.empty(0, dtype=torch.long)  # of the last turn: prompt and answer
        self.prompt_length = 0

    def ask(self, question: str, *, max_new_tokens: int, streamer: BaseStreamer | None = None) -> str:
        """The answer to the next question.

        Args:
            question: the user's message.
            max_new_tokens: longest answer, in tokens.
            streamer: gets the tokens as they come, see `generate`.

        Raises:
            ValueError: if the question names images that are not there, with `<image>`.
        """
        content = [*([] if self.messages else self.opening), {"type": "text", "text": question}]
        messages = [*self.messages, {"role": "user", "content": content}]
        inputs = self.processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=self.settings,
        )
        ids = inputs["input_ids"][0]
        if self.rewind(ids):
            # the images are in the cache
            inputs = {name: value for name, value in inputs.items() if name not in ("pixel_values", "image_sizes")}
        cache, self.cache = self.cache, None  # after an interruption it would hold a part of the answer
        outputs = self.model.generate(
            **{name: value.to(self.model.device) for name, value in inputs.items()},
            **{CACHE_NAME: cache},
            use_cache=True,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            streamer=streamer,
            return_dict_in_generate=True,
        )
        self.cache = outputs[CACHE_NAME]
        self.sequence, self.prompt_length = outputs.sequences[0].cpu(), len(ids)
        self.cached_ids = self.sequence[: self.cache.get_seq_length()]
        answer = self.processor.decode(self.sequence[len(ids) :], skip_special_tokens=True).strip()
        self.messages = [*messages, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        return answer

    def rewind(self, ids: torch.Tensor) -> bool:
        """Cuts the cache back to the tokens that it shares with `ids`, (n,), and says whether something is left.

        An answer's tokens may differ from those of its text. A cache that can't be cut (of a sliding window, say), or
        in which an image would be missing, is given up.
        """
        length = min(len(self.cached_ids), len(ids) - 1)  # one token at least is left to read
        differing = (self.cached_ids[:length] != ids[:length]).nonzero()
        shared = int(differing[0]) if len(differing) else length
        if self.cache is None or (ids[shared:] == self.processor.image_token_id).any():
            self.cache = None
        elif shared < len(self.cached_ids):
            try:
                self.cache.crop(shared - len(self.cached_ids))
            except (RuntimeError, ValueError):
                self.cache = None
        return self.cache is not None


__all__ = ["Chat"]
