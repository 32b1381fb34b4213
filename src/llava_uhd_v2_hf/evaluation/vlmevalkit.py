# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Our models in VLMEvalKit: a class for its `supported_VLM`."""

import string
from pathlib import Path
from typing import Any

import pandas
from vlmeval.dataset import DATASET_TYPE
from vlmeval.smp import toliststr
from vlmeval.vlm.base import BaseModel

from .evaluated_model import EvaluatedModel
from .generation import read_generation
from .questions import Question, add_ocr_line
from .settings import EvaluationSettings


# of the training (paper, table of the response formats)
OPTION_PROMPT = "Answer directly with the option's letter from the given choices."
SHORT_PROMPT = "Answer the question using a single word or phrase."


class LlavaUhdV2ForVLMEvalKit(BaseModel):
    """A model for VLMEvalKit, whose messages are lists of {"type": "text" or "image", "value": text or file}.

    Questions with options get the prompt of the training; the other data sets' prompts are VLMEvalKit's.

    Args:
        model_path: folder or Hub id of a checkpoint or an adapter.
        record: the JSON file to write, with all that the results depend on.
        generation: generation settings, see [`read_generation`]; by default greedy, at most 128 tokens.
        settings: the other fields of [`EvaluationSettings`]; VLMEvalKit asks one question at a time.

    Raises:
        ValueError: see [`read_generation`], [`EvaluationSettings`] and [`EvaluatedModel`].
    """

    INTERLEAVE = True
    allowed_types = ["text", "image"]

    def __init__(
        self,
        model_path: str,
        record: str,
        generation: dict[str, Any] | None = None,
        **settings: Any,
    ):
        super().__init__()
        self.generation = generation or {}
        read_generation(self.generation)  # its errors come before the model is loaded
        self.evaluated = EvaluatedModel(EvaluationSettings(model_path, **settings), Path(record), "vlmeval")

    def use_custom_prompt(self, dataset: str) -> bool:
        """Whether [`~LlavaUhdV2ForVLMEvalKit.build_prompt`] writes the prompts of a data set.

        Args:
            dataset: its name.
        """
        return DATASET_TYPE(dataset) == "MCQ" or self.evaluated.settings.ocr_tokens

    def build_prompt(self, line: pandas.Series, dataset: str) -> list[dict[str, str]]:
        """The message of a row: its images, and its question with options and the form of the answer.

        Args:
            line: the row.
            dataset: the name of its data set.

        Raises:
            ValueError: if `ocr_tokens` is on, but the row has none.
        """
        row = {
            name: value
            for name, value in line.items()
            if not (pandas.api.types.is_scalar(value) and pandas.isna(value))
        }
        options = [f"{letter}. {row[letter]}" for letter in string.ascii_uppercase if letter in row]
        form = OPTION_PROMPT if options else SHORT_PROMPT
        prompt = "\n".join([*([row["hint"]] if "hint" in row else []), row["question"], *options, form])
        if self.evaluated.settings.ocr_tokens:
            if "ocr_tokens" not in row:
                raise ValueError(f"`ocr_tokens` is on, but the data set {dataset} has no such column; turn it off.")
            prompt = add_ocr_line(prompt, toliststr(row["ocr_tokens"]))
        images = [{"type": "image", "value": path} for path in self.dump_image(line, dataset)]
        return [*images, {"type": "text", "value": prompt}]

    def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """The answer to a message.

        Args:
            message: texts and files of images, in their order.
            dataset: the name of the data set.

        Raises:
            ValueError: see [`EvaluatedModel.answer`].
        """
        content = [
            {"type": "image", "image": part["value"]}
            if part["type"] == "image"
            else {"type": "text", "text": part["value"]}
            for part in message
        ]
        chat = [{"role": "user", "content": content}]
        [answer] = self.evaluated.answer([Question(dataset or "", chat, self.generation)])
        return answer


__all__ = ["LlavaUhdV2ForVLMEvalKit"]
