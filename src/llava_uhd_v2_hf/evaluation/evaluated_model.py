# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A model that answers the questions of a benchmark, in batches, and records what its answers depend on."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from ..inference.adapter_fit import weights_that_fit
from ..inference.batch import answer_chats
from ..inference.checkpoints import check_checkpoint
from .generation import cut_answer, read_generation
from .image_rules import pre_resized_image
from .questions import Question, with_ocr_tokens, without_ocr_tokens
from .record import Record, describe_checkpoint, describe_versions
from .settings import EvaluationSettings


class EvaluatedModel:
    """A model that answers the questions of a benchmark, and records what its answers depend on.

    Args:
        settings: which model, and how it is asked.
        record: the JSON file to write.
        harness: module of the program that asks.

    Raises:
        ValueError: if there are several processes, it is no checkpoint, or the record belongs to other results.
        OSError: if the checkpoint can't be read.
    """

    def __init__(self, settings: EvaluationSettings, record: Path, harness: str):
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError(f"The evaluation runs in one process, but WORLD_SIZE is {os.environ['WORLD_SIZE']}.")
        check_checkpoint(settings.checkpoint)
        self.settings = settings
        self.processor = AutoProcessor.from_pretrained(settings.checkpoint)
        self.image_options = {} if settings.max_slices is None else {"max_slices": settings.max_slices}
        device = settings.device or torch.accelerator.current_accelerator() or "cpu"
        with weights_that_fit(settings.checkpoint):
            self.model = AutoModelForImageTextToText.from_pretrained(settings.checkpoint, dtype=settings.dtype)
        self.model.to(device).eval()
        self.record = Record(record, self.describe(harness))

    def describe(self, harness: str) -> dict[str, Any]:
        """What all answers depend on.

        Args:
            harness: see the class.
        """
        settings = dataclasses.asdict(self.settings)
        del settings["checkpoint"]
        return {
            "checkpoint": describe_checkpoint(self.settings.checkpoint),
            "settings": settings | {"dtype": str(self.model.dtype), "device": str(self.model.device)},
            "image_processor": self.processor.image_processor.to_dict() | self.image_options,
            "chat_template": self.processor.chat_template,
            "versions": describe_versions(harness),
        }

    def answer(self, questions: Iterable[Question]) -> list[str]:
        """The answers, in the order of the questions, of which no more than a batch is held.

        Args:
            questions: those in a row with the same generation settings share batches.

        Raises:
            ValueError: if a question has an image that can't be used, unknown generation settings, or OCR words
                against the settings.
        """
        answers: list[str] = []
        for batch in batches_of(questions, self.settings.batch_size):
            options, until = read_generation(batch[0].generation)
            chats = [self.build_chat(question) for question in batch]
            for question, chat in zip(batch, chats):
                prompt = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
                self.record.add(question.task, prompt, options | {"until": until})
            texts = answer_chats(self.model, self.processor, chats, processor_kwargs=self.image_options, **options)
            answers += [cut_answer(text, until) for text in texts]
        self.record.write()
        return answers

    def build_chat(self, question: Question) -> list[dict[str, Any]]:
        """The messages as the processor gets them: with OCR words, if they are on, and images resized by the rule.

        Args:
            question: see [`~EvaluatedModel.answer`].
        """
        messages = with_ocr_tokens(question) if self.settings.ocr_tokens else without_ocr_tokens(question)
        rule, image_processor = self.settings.pre_resize, self.processor.image_processor
        return [
            {
                "role": message["role"],
                "content": [
                    {"type": "image", "image": pre_resized_image(entry["image"], question.task, rule, image_processor)}
                    if entry["type"] == "image"
                    else entry
                    for entry in message["content"]
                ],
            }
            for message in messages
        ]


def batches_of(questions: Iterable[Question], size: int) -> Iterator[list[Question]]:
    """Questions in a row with the same generation settings, in lists of at most `size`."""
    for _, group in groupby(questions, key=lambda question: question.generation):
        while batch := list(islice(group, size)):
            yield batch


__all__ = ["EvaluatedModel", "batches_of"]
