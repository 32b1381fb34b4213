# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""lmms-eval's own program, base class and registry with our model, on tasks of a few pictures."""

import json

import pytest

from tests.ecosystem.apart import Client
from tests.ecosystem.lmms_eval_tasks import FORM, ROWS, write_tasks
from tests.ecosystem.one_by_one import OneByOne


LMMS_EVAL = Client("lmms_eval")


@pytest.fixture(scope="module")
def answer(tiny_checkpoint):
    """Answers a question about an image by transformers alone."""
    return OneByOne(tiny_checkpoint)


@pytest.fixture
def run(tiny_checkpoint, tmp_path):
    """Runs `lmms-eval` on a task -> what it says. After an error too it exits with 0."""

    def run_task(task, tasks, batch_size=1, **model_args):
        given = {"pretrained": tiny_checkpoint, "record": tmp_path / "record.json", "device": "cpu", **model_args}
        text = ",".join(f"{name}={value}" for name, value in given.items())
        command = ["-m", "lmms_eval", "--model", "llava_uhd_v2", "--model_args", text, "--tasks", task]
        options = ["--include_path", tasks, "--output_path", tmp_path / "results", "--log_samples", "--batch_size"]
        done = LMMS_EVAL.run(*command, *options, batch_size, cache=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run_task


@pytest.fixture
def evaluate(run, tmp_path):
    """Runs `lmms-eval` on a task -> its score, the answers that it has logged, and our record."""

    def evaluate_task(task, *arguments, **model_args):
        said = run(task, *arguments, **model_args)
        assert (tmp_path / "results").is_dir(), said
        [results] = (tmp_path / "results").rglob("*_results.json")
        [samples] = (tmp_path / "results").rglob("*_samples_*.jsonl")
        score = json.loads(results.read_text())["results"][task]["exact_match,none"]
        logged = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"])
        record = json.loads((tmp_path / "record.json").read_text())
        return score, [sample["filtered_resps"] for sample in logged], record

    return evaluate_task


@pytest.mark.client("lmms_eval", "`lmms-eval` finds our model, asks it in batches and one by one: scores as by hand")
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_task(evaluate, answer, tmp_path, batch_size):
    expected = [answer(row["image"], row["question"] + FORM) for row in ROWS]
    assert len(set(expected)) > 2 and all(expected)
    tasks = write_tasks(tmp_path / "tasks", [*expected[:3], "something", "else"])
    score, answers, record = evaluate("pictures", tasks, batch_size)
    assert answers == expected
    assert score == pytest.approx(3 / 5)
    assert record["settings"]["batch_size"] == batch_size
    assert record["versions"]["lmms_eval"] == "0.7.3"
    noted = record["tasks"]["pictures"]
    assert noted["questions"] == len(ROWS)
    assert noted["first_prompt"].endswith(f"USER: <image>\n{ROWS[0]['question']}{FORM} ASSISTANT:")
    assert noted["generation"] == [{"max_new_tokens": 6, "num_beams": 1, "do_sample": False, "until": ["never"]}]


@pytest.mark.client("lmms_eval", "`ocr_tokens=True`: the prompts of its TextVQA with `ocr: true`, by us or by it")
@pytest.mark.parametrize("by_the_task", [False, True])
def test_ocr_words(evaluate, answer, tmp_path, by_the_task):
    prompts = [
        f"{row['question'].capitalize()}\nReference OCR token: {', '.join(row['ocr_tokens'])}{FORM}" for row in ROWS
    ]
    expected = [answer(row["image"], prompt) for row, prompt in zip(ROWS, prompts)]
    tasks = write_tasks(tmp_path / "tasks", [*expected[:2], "", "", ""], ocr=by_the_task)
    score, answers, record = evaluate("words", tasks, 2, ocr_tokens=True)
    assert answers == expected
    assert score == pytest.approx(2 / 5)
    assert record["settings"]["ocr_tokens"] is True
    assert prompts[0] in record["tasks"]["words"]["first_prompt"]


@pytest.mark.client("lmms_eval", "`ocr: true` of a task is refused without `ocr_tokens=True`")
def test_ocr_words_against_the_record(run, tmp_path):
    said = run("words", write_tasks(tmp_path / "tasks", [""] * 5, ocr=True))
    assert "The task words names OCR words in its prompts, but `ocr_tokens` is off" in said


@pytest.mark.client("lmms_eval", "questions of several rounds, of which each knows the answer before it")
def test_rounds(evaluate, answer, tmp_path):
    expected = []
    for row in ROWS:
        first = answer(row["image"], row["question"])
        expected.append([first, answer(row["image"], f"Is it {first}?")])
    tasks = write_tasks(tmp_path / "tasks", [" / ".join(rounds) for rounds in expected[:4]] + ["else"])
    score, answers, record = evaluate("rounds", tasks)
    assert answers == expected
    assert score == pytest.approx(4 / 5)
    assert record["tasks"]["rounds"]["questions"] == 2 * len(ROWS)


CLASS = """
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models import get_model, get_model_manifest
from lmms_eval.models.registry_v2 import ModelManifest

manifest = get_model_manifest("llava_uhd_v2")
assert isinstance(manifest, ModelManifest), manifest
cls = get_model("llava_uhd_v2")
assert issubclass(cls, lmms) and not cls.is_simple and not cls.__abstractmethods__, cls
assert f"{cls.__module__}.{cls.__name__}" == manifest.chat_class_path
model = cls.create_from_arg_string("pretrained=FOLDER,record=record.json,device=cpu", {"batch_size": "2"})
assert (model.rank, model.world_size, model.evaluated.settings.batch_size) == (0, 1, 2)
model.task_dict = {"clips": {"test": [{}]}}
clip = [{"role": "user", "content": [{"type": "video", "url": "clip.mp4"}, {"type": "text", "text": "Who?"}]}]
metadata = {"task": "clips", "doc_id": 0, "repeats": 1}
request = Instance("generate_until", ("", lambda doc: clip, {}, 0, "clips", "test"), 0, metadata)
for method, requests in ((model.generate_until, [request]), (model.loglikelihood, [])):
    try:
        method(requests)
    except (ValueError, NotImplementedError) as error:
        print(error)
"""


@pytest.mark.client("lmms_eval", "the entry point, its registry and base class; videos and likelihoods are refused")
def test_the_class(tiny_checkpoint, tmp_path):
    done = LMMS_EVAL.run("-c", CLASS.replace("FOLDER", str(tiny_checkpoint)), cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "The task clips has video; this model reads text and images.",
        "Models that get messages generate; take the task's variant that generates.",
    ]
