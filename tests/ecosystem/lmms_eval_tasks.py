# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Tasks for lmms-eval over a few pictures, as files, in the forms that its own tasks have."""

import shutil
from pathlib import Path

import datasets

from tests.ecosystem.pipeline_answers import SMALL, TALL, WIDE


FORM = "\nAnswer the question using a single word or phrase."
ROWS = [
    {"image": WIDE, "question": "What is this?", "ocr_tokens": ["A", "B"]},
    {"image": SMALL, "question": "What may this be, please?", "ocr_tokens": ["Stop"]},
    {"image": TALL, "question": "Who?", "ocr_tokens": []},
    {"image": SMALL, "question": "Where is it?", "ocr_tokens": ["7"]},
    {"image": WIDE, "question": "Which one?", "ocr_tokens": ["x"]},
]
COMMON = """\
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {folder}/rows.parquet
test_split: test
doc_to_visual: !function lmms_eval_task_code.images_of
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 6
  temperature: 0
  do_sample: false
  until: "never"
"""
SCORE = """\
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
TASKS = {
    "pictures": f"output_type: generate_until\ndoc_to_text: !function lmms_eval_task_code.prompt_of\n{SCORE}",
    # the prompts of lmms-eval's own TextVQA
    "words": f"output_type: generate_until\ndoc_to_text: !function lmms_eval_task_code.textvqa_doc_to_text\n{SCORE}"
    f"lmms_eval_specific_kwargs:\n  default:\n    pre_prompt: ''\n    post_prompt: {FORM!r}\n    ocr: OCR\n",
    "rounds": "output_type: generate_until_multi_round\n"
    "doc_to_text: !function lmms_eval_task_code.round_of\n"
    f"process_results: !function lmms_eval_task_code.score_rounds\n{SCORE}",
}


def write_tasks(folder: Path, answers: list[str], *, ocr: bool = False) -> Path:
    """The tasks' files; `answers` to the questions are those that score."""
    folder.mkdir()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "ocr_tokens": datasets.List(datasets.Value("string")),
            "answer": datasets.Value("string"),
        }
    )
    rows = [{**row, "answer": answer} for row, answer in zip(ROWS, answers)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(folder / "rows.parquet"))
    for name, text in TASKS.items():
        text = text.replace("ocr: OCR", f"ocr: {str(ocr).lower()}").replace(repr(FORM), '"\\n' + FORM.strip() + '"')
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{COMMON.format(folder=folder)}{text}")
    shutil.copy(Path(__file__).with_name("lmms_eval_task_code.py"), folder)
    return folder


__all__ = ["FORM", "ROWS", "write_tasks"]
