# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What the tasks of lmms_eval_tasks.py do with a row; lmms-eval reads it beside their files."""

from lmms_eval.tasks.textvqa.utils import textvqa_doc_to_text  # noqa: F401


def images_of(doc):
    return [doc["image"].convert("RGB")]


def prompt_of(doc, lmms_eval_specific_kwargs=None):
    return f"{doc['question']}\nAnswer the question using a single word or phrase."


def round_of(doc, lmms_eval_specific_kwargs=None, round_idx=None, previous_output=None, previous_round_info=None):
    """Two rounds, the second of which asks about the answer of the first."""
    if round_idx is None:
        return doc["question"]
    return images_of(doc), f"Is it {previous_output[-1]}?", round_idx == 2, previous_output, None


def score_rounds(doc, results):
    """Of the answers of both rounds."""
    [answers] = results
    return {"exact_match": float(len(answers) == 2 and doc["answer"] == " / ".join(answers))}
