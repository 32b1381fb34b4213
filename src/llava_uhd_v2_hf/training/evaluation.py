# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Answers to held-out questions, and how many are right."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from ..data.samples import ConversationDataset
from ..inference.batch import answer_chats
from ..model.processing_llava_uhd_v2 import LlavaUhdV2Processor


@torch.no_grad()
def generate_answers(
    model: PreTrainedModel,
    processor: LlavaUhdV2Processor,
    samples: Sequence[dict[str, Any]],
    *,
    max_new_tokens: int,
    max_slices: int | None = None,
) -> list[str]:
    """The answers, greedily generated in one batch, to the last question of each sample.

    Args:
        model: which is left in the mode, training or evaluation, that it was in.
        processor: with the chat template.
        samples: with `messages`, the last one being the answer, and `images`, as of [`ConversationDataset`].
        max_new_tokens: longest answer, in tokens.
        max_slices: of an image; None for the processor's own.
    """
    images = [list(sample["images"]) for sample in samples]
    options: dict[str, Any] = {"images": images} if any(images) else {}
    if max_slices is not None:
        options["max_slices"] = max_slices
    training = model.training
    model.eval()
    try:
        return answer_chats(
            model,
            processor,
            [list(sample["messages"][:-1]) for sample in samples],
            processor_kwargs=options,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            # `generate` itself does not see that accelerate has sharded the model
            synced_gpus=True if isinstance(model, FSDPModule) else None,
        )
    finally:
        model.train(training)


def text_of(message: dict[str, Any]) -> str:
    """What a message says, whether as a string or in parts."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")


def is_exact(answer: str, expected: str) -> bool:
    """Whether two answers are the same but for case and space around them."""
    return answer.strip().casefold() == expected.strip().casefold()


class HeldOutAnswers:
    """Held-out samples, and how many of their answers a model gives.

    Args:
        dataset: the samples.
        processor: with the chat template.
        batch_size: questions that a process answers at once.
        max_new_tokens, max_slices: as of [`generate_answers`].
        samples: how many of the first samples; None for all.
    """

    def __init__(
        self,
        dataset: ConversationDataset,
        processor: LlavaUhdV2Processor,
        *,
        batch_size: int,
        max_new_tokens: int,
        max_slices: int | None = None,
        samples: int | None = None,
    ):
        self.dataset, self.processor, self.batch_size = dataset, processor, batch_size
        self.max_new_tokens, self.max_slices = max_new_tokens, max_slices
        self.count = min(len(dataset), samples or len(dataset))

    def __len__(self) -> int:
        return self.count

    def exact_match(self, model: PreTrainedModel, accelerator: Accelerator) -> float:
        """The share of the answers that are right, over all processes.

        Args:
            model: see [`generate_answers`].
            accelerator: of the processes, which share the samples.
        """
        right, at_once = 0, self.batch_size * accelerator.num_processes
        for start in range(0, self.count, at_once):
            end = min(start + at_once, self.count)
            numbers = range(start + accelerator.process_index, end, accelerator.num_processes)
            # a sharded model generates on every process or on none
            batch = [self.dataset[number] for number in numbers or [end - 1]]
            answers = generate_answers(
                model, self.processor, batch, max_new_tokens=self.max_new_tokens, max_slices=self.max_slices
            )
            expected = [text_of(sample["messages"][-1]) for sample in batch[: len(numbers)]]
            right += sum(map(is_exact, answers, expected))
        total = accelerator.reduce(torch.tensor(right, device=accelerator.device))
        return total.item() / self.count


__all__ = ["HeldOutAnswers", "generate_answers", "is_exact"]
