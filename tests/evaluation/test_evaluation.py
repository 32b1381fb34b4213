# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What both evaluation harnesses share: batches, prompts, image rules, generation settings, and the record."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava_uhd_v2_hf.evaluation.evaluated_model import EvaluatedModel, batches_of
from llava_uhd_v2_hf.evaluation.generation import cut_answer, read_generation
from llava_uhd_v2_hf.evaluation.image_rules import evaluation_size
from llava_uhd_v2_hf.evaluation.questions import Question, add_ocr_line
from llava_uhd_v2_hf.evaluation.settings import KINDS, EvaluationSettings


def draw(width, height):
    return Image.effect_mandelbrot((width, height), (-2, -1.2, 1, 1.2), 100).convert("RGB")


def ask(text, *images, task="pictures", **options):
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
    return Question(task, [{"role": "user", "content": content}], {"max_new_tokens": 8}, **options)


WIDE, SMALL, TALL = draw(160, 60), draw(40, 30), draw(60, 130)
QUESTIONS = [
    ask("What is this?", WIDE),
    ask("Name the capital of France."),
    ask("What may this be, please?", SMALL),
    ask("Compare these.", TALL, SMALL),
    ask("Who?", TALL, task="others"),
]


@pytest.fixture
def make(tiny_checkpoint, tmp_path):
    """A model for evaluation, in float32 on the CPU."""

    def make_model(record="record.json", **settings):
        settings = {"device": "cpu", "dtype": "float32", **settings}
        return EvaluatedModel(EvaluationSettings(str(tiny_checkpoint), **settings), tmp_path / record, "pytest")

    return make_model


@pytest.fixture(scope="module")
def answers(tiny_checkpoint):
    """Without our evaluation, one by one."""
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    template = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    texts = []
    for question in QUESTIONS:
        inputs = processor.apply_chat_template(question.messages, **template)
        tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        texts.append(processor.decode(tokens, skip_special_tokens=True).strip())
    assert len(set(texts)) == len(texts)
    return texts


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_batches_answer_as_one_by_one(make, answers, batch_size):
    """Whatever side the checkpoint's tokenizer pads on."""
    model = make(batch_size=batch_size)
    model.processor.tokenizer.padding_side = "right"
    assert model.answer(iter(QUESTIONS)) == answers


def test_a_batch_has_one_kind_of_generation_and_is_all_that_is_held():
    seen = []

    def questions():
        for number, tokens in enumerate([4, 4, 4, 5, 4]):
            seen.append(number)
            yield Question("pictures", [], {"max_new_tokens": tokens})

    batches = batches_of(questions(), 2)
    assert len(next(batches)) == 2 and seen == [0, 1]
    assert [len(batch) for batch in batches] == [1, 1, 1]


def test_max_slices(make):
    model, counts = make(max_slices=1), []
    model.model.generate = lambda input_ids, **rest: counts.append(len(rest["pixel_values"][0])) or input_ids
    model.answer(QUESTIONS[:1])
    model.image_options = {}
    model.answer(QUESTIONS[:1])
    assert counts[0] < counts[1]
    assert model.record.facts["image_processor"]["max_slices"] == model.record.facts["settings"]["max_slices"] == 1


def test_the_record(make, tiny_checkpoint, tmp_path):
    make(batch_size=2).answer(QUESTIONS)
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    files = record["checkpoint"]["files"]
    assert record["checkpoint"]["name"] == str(tiny_checkpoint)
    for name in ("config.json", "processor_config.json", "model.safetensors"):
        assert files[name] == hashlib.sha256((tiny_checkpoint / name).read_bytes()).hexdigest()
    assert record["settings"] == {
        "dtype": "torch.float32",
        "device": "cpu",
        "batch_size": 2,
        "max_slices": None,
        "pre_resize": None,
        "ocr_tokens": False,
    }
    assert record["image_processor"]["slice_resolution"] == 56
    assert record["chat_template"] == AutoProcessor.from_pretrained(tiny_checkpoint).chat_template
    assert record["versions"]["torch"] == torch.__version__
    assert {"python", "transformers", "llava-uhd-v2-hf", "pytest"} <= record["versions"].keys()
    pictures, others = record["tasks"]["pictures"], record["tasks"]["others"]
    assert (pictures["questions"], others["questions"]) == (4, 1)
    assert pictures["first_prompt"].endswith("USER: <image>\nWhat is this? ASSISTANT:")
    assert pictures["generation"] == [{"max_new_tokens": 8, "num_beams": 1, "do_sample": False, "until": []}]
    assert others["prompts_sha256"] == hashlib.sha256(f"{others['first_prompt']}\0".encode()).hexdigest()


def test_other_prompts_have_another_hash(make, tmp_path):
    hashes = []
    for number, text in enumerate(["Who?", "Who is it?", "Who?"]):
        make(f"{number}.json").answer([ask("What is this?", SMALL), ask(text, SMALL)])
        hashes.append(json.loads((tmp_path / f"{number}.json").read_text())["tasks"]["pictures"]["prompts_sha256"])
    assert hashes[0] == hashes[2] != hashes[1]


def test_a_record_belongs_to_one_kind_of_results(make, tmp_path):
    make().answer(QUESTIONS[:1])
    make().answer(QUESTIONS[:2])
    assert json.loads((tmp_path / "record.json").read_text())["tasks"]["pictures"]["questions"] == 2
    with pytest.raises(ValueError, match="record.json records results with other settings, image_processor;"):
        make(max_slices=2)


def test_ocr_words(make):
    question = ask(
        "What does it say?\nAnswer the question using a single word or phrase.", SMALL, ocr_tokens=["A", "B"]
    )
    [message] = make("on.json", ocr_tokens=True).build_chat(question)
    assert message["content"][1]["text"] == (
        "What does it say?\nReference OCR token: A, B\nAnswer the question using a single word or phrase."
    )
    [message] = make("off.json").build_chat(question)
    assert message["content"][1] == question.messages[0]["content"][1]
    assert add_ocr_line("Who?", []) == "Who?\nReference OCR token: "


def test_ocr_words_that_are_not_as_set(make):
    with pytest.raises(ValueError, match="`ocr_tokens` is on, but the task pictures has no `ocr_tokens`"):
        make("on.json", ocr_tokens=True).answer([QUESTIONS[0]])
    own = ask("Who?\nReference OCR token: A", SMALL)
    with pytest.raises(ValueError, match="The task pictures names OCR words in its prompts, but `ocr_tokens` is off"):
        make("off.json").answer([own])
    assert make("on.json", ocr_tokens=True).build_chat(own) == own.messages


@pytest.mark.parametrize(
    "settings, options",
    [
        ({}, {"max_new_tokens": 128, "num_beams": 1, "do_sample": False}),
        (
            {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 3, "do_sample": False},
            {"max_new_tokens": 16, "num_beams": 3, "do_sample": False},
        ),
        (
            {"temperature": 0.7, "top_p": None, "image_aspect_ratio": "original"},
            {"max_new_tokens": 128, "num_beams": 1, "do_sample": True, "temperature": 0.7},
        ),
        ({"temperature": 0.7, "do_sample": False}, {"max_new_tokens": 128, "num_beams": 1, "do_sample": False}),
        ({"temperature": 0, "do_sample": True}, {"max_new_tokens": 128, "num_beams": 1, "do_sample": False}),
        ({"do_sample": True}, {"max_new_tokens": 128, "num_beams": 1, "do_sample": True}),
    ],
)
def test_generation_settings(settings, options):
    assert read_generation(settings) == (options, [])


@pytest.mark.parametrize("zero", ["0", "0.0", "0e0", 0, 0.0, "None", "null", "", None])
def test_a_temperature_of_zero_is_greedy_in_whatever_form(zero):
    assert read_generation({"temperature": zero}) == read_generation({})


WRITTEN = [
    ("max_new_tokens", 512, ["512", " 512 ", "512.0", 512.0, "5.12e2", np.int64(512)]),
    ("num_beams", 3, ["3", 3.0]),
    ("temperature", 1e-5, ["1e-5", "0.00001", np.float64(1e-5)]),
    ("temperature", 2.0, ["2", 2]),
    ("top_p", 1.0, ["1", "1.0", 1]),
    ("top_k", 20, ["20", 20.0]),
    ("length_penalty", -1.0, ["-1", -1]),
    ("repetition_penalty", 2.0, ["2", 2]),
]


@pytest.mark.parametrize(
    "name, value, form", [(name, value, form) for name, value, forms in WRITTEN for form in [value, *forms]]
)
def test_generation_settings_as_harnesses_write_them(name, value, form):
    """Of the type that `generate` wants, too: its warpers refuse integers as temperatures and penalties."""
    options, _ = read_generation({"do_sample": True, name: form})
    assert options[name] == value and type(options[name]) is type(value)


@pytest.mark.parametrize("on", [True, "true", "True", "TRUE", 1, "1", np.True_])
@pytest.mark.parametrize("off", [False, "false", "False", 0, "0", None, "None"])
def test_flags_as_harnesses_write_them(on, off):
    assert read_generation({"do_sample": on})[0]["do_sample"] is True
    assert read_generation({"do_sample": off})[0]["do_sample"] is False
    assert EvaluationSettings("checkpoint", ocr_tokens=on).ocr_tokens is True
    assert EvaluationSettings("checkpoint", ocr_tokens=off).ocr_tokens is False


@pytest.mark.parametrize(
    "name, values, expected",
    [
        (
            "max_new_tokens",
            [0, "0", -1, 1.5, "1.5", True, "many", "1e999", 10**400, [5], "nan"],
            "an integer of at least 1",
        ),
        ("num_beams", ["0", "two", False], "an integer of at least 1"),
        ("temperature", ["hot", -0.1, "-0.1", "nan", "inf", True, "true", [0]], "a number of at least 0"),
        ("top_p", ["1.1", -1, "all"], "a number from 0 to 1"),
        ("top_k", ["-1", 0.5, "few"], "an integer of at least 0"),
        ("do_sample", ["yes", 2, 0.5, "off"], "True or False"),
        ("length_penalty", ["long", "inf"], "a number"),
        ("repetition_penalty", [0, "0", "-1"], "a number above 0"),
        ("until", [7, 1.5, True, [1], [None]], "a text or a list of texts"),
    ],
)
def test_generation_settings_that_are_none(name, values, expected):
    for value in values:
        with pytest.raises(ValueError, match=f"^{re.escape(f'`{name}` must be {expected}, got {value!r}.')}$"):
            read_generation({name: value})


def test_the_end_of_an_answer():
    assert read_generation({"until": "\n"})[1] == ["\n"]
    assert read_generation({"until": ["USER:", "\n"]})[1] == ["USER:", "\n"]
    assert read_generation({"until": "None"})[1] == ["None"]
    assert read_generation({"until": None})[1] == read_generation({"until": []})[1] == []
    assert cut_answer(" A red\nUSER: or blue", ["USER:", "\n", ""]) == "A red"
    with pytest.raises(ValueError, match="`visual_cot`=True isn't known; there are until, do_sample"):
        read_generation({"visual_cot": True})


@pytest.mark.parametrize(
    "task, rule, resized",
    [
        ("gqa", "released-permute", (512, 1024)),
        ("TextVQA_VAL", "released-permute", (768, 1536)),
        ("textvqa_val", "released-sequential", (768, 1536)),
        ("mme", "released-sequential", (300, 600)),
        ("AI2D_TEST", "released-sequential", (300, 600)),
        ("MMBench_DEV_EN", "released-sequential", (300, 600)),
    ],
)
def test_the_released_resizing(task, rule, resized):
    assert evaluation_size(300, 600, task, rule) == resized


def test_only_one_released_version_makes_images_smaller(make):
    assert evaluation_size(1000, 2000, "gqa", "released-permute") == (1000, 2000)
    assert evaluation_size(1000, 2000, "gqa", "released-sequential") == (512, 1024)
    [message] = make(pre_resize="released-sequential").build_chat(QUESTIONS[0])
    assert message["content"][0]["image"].size == (1024, 384)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": "auto"}, "`batch_size` must be an integer of at least 1, got 'auto'."),
        ({"max_slices": 0}, "`max_slices` must be an integer of at least 1, got 0."),
        ({"dtype": "int8"}, "`dtype` must be one of auto, float32, bfloat16, float16, got 'int8'."),
        ({"pre_resize": "1024"}, "`pre_resize` must be one of released-permute, released-sequential, got '1024'."),
        ({"ocr_tokens": "on"}, "`ocr_tokens` must be True or False, got 'on'."),
        ({"batch_size": True}, "`batch_size` must be an integer of at least 1, got True."),
        ({"max_slices": "6.5"}, "`max_slices` must be an integer of at least 1, got '6.5'."),
        ({"device": "gpu"}, "`device` must be a device as torch names it (cpu, cuda, cuda:0), got 'gpu'."),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        EvaluationSettings("checkpoint", **settings)


def test_settings_as_harnesses_write_them():
    written = {"batch_size": "8", "max_slices": "6.0", "ocr_tokens": "true", "device": "cpu", "dtype": "bfloat16"}
    typed = {"batch_size": 8, "max_slices": 6, "ocr_tokens": True, "device": "cpu", "dtype": "bfloat16"}
    assert EvaluationSettings("checkpoint", **written) == EvaluationSettings("checkpoint", **typed)
    for none in (None, "None", "null", ""):
        assert EvaluationSettings("checkpoint", **dict.fromkeys(KINDS, none)) == EvaluationSettings("checkpoint")


def test_several_processes_are_refused(make, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="runs in one process, but WORLD_SIZE is 2"):
        make()
