# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Our models in lmms-eval: `lmms-eval --model llava_uhd_v2 --model_args pretrained=...,record=...`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from .evaluated_model import EvaluatedModel
from .questions import Question
from .settings import EvaluationSettings


class LlavaUhdV2ForLmmsEval(lmms):
    """A model for lmms-eval, which gives it chats ("chat" model) and gets texts.

    Args:
        pretrained: folder or Hub id of a checkpoint or an adapter.
        record: the JSON file to write, with all that the results depend on.
        settings: the other fields of [`EvaluationSettings`].

    Raises:
        ValueError: see [`EvaluationSettings`] and [`EvaluatedModel`].
    """

    is_simple = False

    def __init__(self, pretrained: str, record: str, **settings: Any):
        super().__init__()
        self.evaluated = EvaluatedModel(EvaluationSettings(pretrained, **settings), Path(record), "lmms_eval")

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answers to questions of one turn.

        Args:
            requests: lmms-eval's, of tasks with messages.

        Raises:
            ValueError: see [`EvaluatedModel.answer`], or if a message has something other than text and images.
        """
        return self.evaluated.answer(self._questions_of(tqdm(requests, desc="Answers")))

    def _questions_of(self, requests: list[Instance]) -> Iterator[Question]:
        for request in requests:
            _, doc_to_messages, generation, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            yield build_question(task, doc, doc_to_messages(doc), generation)

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """The answers to questions of several turns, each a list: the task makes a turn from the answer before it.

        Args:
            requests: likewise.

        Raises:
            ValueError: likewise.
        """
        return [self._answer_in_rounds(request) for request in tqdm(requests, desc="Answers")]

    def _answer_in_rounds(self, request: Instance) -> list[str]:
        _, doc_to_messages, generation, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        answers: list[str] = []
        messages, finished, information = doc_to_messages(doc), False, None
        while not finished:
            answers += self.evaluated.answer([build_question(task, doc, messages, generation)])
            messages, finished, _, information = doc_to_messages(
                doc, round_idx=len(answers), previous_output=list(answers), previous_round_info=information
            )
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuses: lmms-eval's tasks with messages generate.

        Args:
            requests: lmms-eval's.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("Models that get messages generate; take the task's variant that generates.")


def build_question(task: str, doc: dict[str, Any], messages: list[dict[str, Any]], generation: dict) -> Question:
    """A question from what lmms-eval has.

    Args:
        task: its name.
        doc: the row of the data set.
        messages: of the task, for this row.
        generation: the task's generation settings.

    Raises:
        ValueError: if there is something other than text and images.
    """
    chat = ChatMessages(messages=messages).to_hf_messages()
    if others := {entry["type"] for message in chat for entry in message["content"]} - {"text", "image"}:
        raise ValueError(f"The task {task} has {', '.join(sorted(others))}; this model reads text and images.")
    return Question(task, chat, generation, doc.get("ocr_tokens"))


__all__ = ["LlavaUhdV2ForLmmsEval"]
