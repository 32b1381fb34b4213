# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What is trained on: the label of each token, -100 where there is none."""

import jinja2
import torch
from transformers import PreTrainedTokenizerBase


IGNORED = -100
TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError)  # the second of templates that take no lists of entries
_NAMES = ("<|im_start|>", "<|im_end|>", "\n")


def template_labels(input_ids: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Labels of the tokens that the chat template marks: every answer with its end token (released v1 and plain).

    Args:
        input_ids: (n,) of one sample.
        answers: (n,), the template's mask.

    Returns:
        (n,).
    """
    return input_ids.masked_fill(~answers.bool(), IGNORED)


def released_chatml_labels(
    input_ids: torch.Tensor, answers: torch.Tensor, tokenizer: PreTrainedTokenizerBase
) -> torch.Tensor:
    """Labels of the released training in the ChatML format (Qwen2).

    Those of [`template_labels`], the header `<|im_start|>assistant` and newline of each answer, and every
    `<|im_start|>`, `<|im_end|>` and newline token of the whole sample, in the system's and the user's turns too.

    Args:
        input_ids: (n,) of one sample.
        answers: (n,), the template's mask.
        tokenizer: see [`chatml_ids`].

    Returns:
        (n,).

    Raises:
        ValueError: as [`chatml_ids`].
    """
    ids = chatml_ids(tokenizer)
    supervised = answers.bool() | torch.isin(input_ids, torch.tensor(ids))
    starts = (input_ids == ids[0]).nonzero().flatten()
    before = torch.nn.functional.pad(answers.bool(), (1, 0))[:-1]
    for first in (answers.bool() & ~before).nonzero().flatten().tolist():
        headers = starts[starts < first].tolist()
        supervised[headers[-1] if headers else first : first] = True
    return input_ids.masked_fill(~supervised, IGNORED)


def chatml_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of `<|im_start|>`, `<|im_end|>` and newline.

    Raises:
        ValueError: if one of them is not a single token.
    """
    ids = [tokenizer(name, add_special_tokens=False)["input_ids"] for name in _NAMES]
    for name, tokens in zip(_NAMES, ids):
        if len(tokens) != 1:
            raise ValueError(
                f"`label_rule`='released-chatml' needs {name!r} as one token, and the tokenizer makes {len(tokens)} "
                "of it; take 'template'."
            )
    return [tokens[0] for tokens in ids]


__all__ = ["TEMPLATE_ERRORS", "chatml_ids", "released_chatml_labels", "template_labels"]
