# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' `pipeline("image-text-to-text")`: its own class, and ours for batches of images of any shapes."""

import json
import os
import subprocess
from threading import Thread

import numpy as np
import pytest
import torch
import transformers
from packaging import version
from PIL import Image
from transformers import TextIteratorStreamer, pipeline
from transformers.pipelines import ImageTextToTextPipeline

from llava_uhd_v2_hf.hub.card import CardRequest
from llava_uhd_v2_hf.hub.export import export_checkpoint
from llava_uhd_v2_hf.model.pipeline_llava_uhd_v2 import LlavaUhdV2Pipeline
from tests.ecosystem.pipeline_answers import ANSWER, CHATS, PROMPTS, SMALL, WIDE, answers_of, say
from tests.ecosystem.tiny_llava import write_llava
from tests.support.environments import make_environment
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return pipeline("image-text-to-text", model=str(tiny_checkpoint), pipeline_class=LlavaUhdV2Pipeline)


@pytest.fixture(scope="module")
def plain(pipe):
    """Our model in transformers' own class, which is taken where none is named."""
    return pipeline("image-text-to-text", pipe.model, processor=pipe.processor)


@pytest.fixture(scope="module")
def answers(pipe):
    """To each chat alone; no two are the same."""
    answers = answers_of(pipe)
    texts = [*(answers[name] for name in CHATS), *answers["prompts"]]
    assert len(set(texts)) == len(texts) and all(texts)
    return answers


def generate(pipe, inputs):
    """The answer without the pipeline."""
    ids = pipe.model.generate(**inputs, max_new_tokens=ANSWER["max_new_tokens"])[:, inputs["input_ids"].shape[1] :]
    return pipe.processor.batch_decode(ids, skip_special_tokens=True)


def texts_of(results):
    return [result["generated_text"] for [result] in results]


@pytest.mark.client("transformers", "pipeline: an image and a prompt, alone and in lists of images of any shapes")
def test_prompts(pipe, answers):
    for image, prompt, answer in zip([WIDE, SMALL], PROMPTS, answers["prompts"]):
        inputs = pipe.processor(images=image, text=prompt, return_tensors="pt")
        assert generate(pipe, inputs) == [answer]
        [result] = pipe(images=image, text=prompt, **ANSWER)
        assert result == {"input_text": prompt, "generated_text": answer}
        [result] = pipe(images=image, text=prompt, max_new_tokens=ANSWER["max_new_tokens"])
        assert result["generated_text"] == prompt + answer
        [result] = pipe(images=image, text=prompt, max_new_tokens=ANSWER["max_new_tokens"], return_tensors=True)
        assert torch.equal(result["generated_token_ids"][: inputs["input_ids"].shape[1]], inputs["input_ids"][0])


def test_images_of_prompts_are_read_as_by_the_processor(pipe, monkeypatch, tmp_path):
    """transformers' own class makes them RGB itself."""
    grey = SMALL.convert("L")
    floats, ink = Image.fromarray(np.asarray(grey, np.float32) / 255), Image.new("RGBA", SMALL.size)
    ink.putalpha(grey)
    floats.save(tmp_path / "floats.tiff")
    monkeypatch.setattr(pipe.processor.image_processor, "alpha", "white")
    for image in (grey, floats, str(tmp_path / "floats.tiff"), ink, [ink]):
        [rows] = pipe.preprocess({"images": image, "text": PROMPTS[1]})["pixel_values"]
        expected = pipe.processor(images=image, text=PROMPTS[1], return_tensors="pt")["pixel_values"]
        assert torch.equal(rows, expected[0])
    with pytest.raises(ValueError, match="The image no.png cannot be used: it is no file"):
        pipe(images="no.png", text=PROMPTS[1])


@pytest.mark.client("transformers", "pipeline: chats with one, several and no images, in several turns")
def test_chats(pipe, answers, tmp_path):
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    for name, chat in CHATS.items():
        assert generate(pipe, pipe.processor.apply_chat_template(chat, **options)) == [answers[name]]
        [result] = pipe(text=chat, max_new_tokens=ANSWER["max_new_tokens"])
        assert result["generated_text"] == [*chat, {"role": "assistant", "content": answers[name]}]
    SMALL.save(file := tmp_path / "small.png")
    chat = [say(CHATS["a small one"][0]["content"][1]["text"])]
    chat[0]["content"].insert(0, {"type": "image", "path": str(file)})
    assert pipe(chat, **ANSWER)[0]["generated_text"] == answers["a small one"]


@pytest.mark.client("transformers", "pipeline: goes on with an answer that the chat has begun")
def test_a_begun_answer(pipe):
    chat = [say("What is this?", WIDE), say("It is", role="assistant")]
    template = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "continue_final_message": True}
    [expected] = generate(pipe, pipe.processor.apply_chat_template(chat, **template))
    assert pipe(text=chat, **ANSWER)[0]["generated_text"] == expected
    [result] = pipe(text=chat, max_new_tokens=ANSWER["max_new_tokens"])
    assert result["generated_text"] == [chat[0], say("It is" + expected, role="assistant")]


class CountingStreamer(TextIteratorStreamer):
    """Counts what `generate` hands over: the prompt, then token by token."""

    count = 0

    def put(self, value):
        self.count += 1
        super().put(value)


@pytest.mark.client("transformers", "pipeline: a `streamer` gets the answer while it is made")
def test_streams(pipe, answers):
    streamer = CountingStreamer(pipe.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    options = {"text": CHATS["two images"], "generate_kwargs": {"streamer": streamer}, **ANSWER}
    thread = Thread(target=pipe, kwargs=options)
    thread.start()
    assert "".join(streamer) == answers["two images"]
    thread.join()
    assert streamer.count == 1 + ANSWER["max_new_tokens"]


@pytest.mark.client("transformers", "pipeline: `batch_size` with images of any shapes, and chats without any")
@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_batches(pipe, answers, batch_size):
    results = pipe(text=list(CHATS.values()), batch_size=batch_size, **ANSWER)
    assert texts_of(results) == [answers[name] for name in CHATS]
    stream = pipe((chat for chat in CHATS.values()), batch_size=batch_size, **ANSWER)
    assert texts_of(stream) == [answers[name] for name in CHATS]
    results = pipe(images=[WIDE, SMALL], text=PROMPTS, batch_size=batch_size, **ANSWER)
    assert [result["generated_text"] for result in results] == answers["prompts"]


@pytest.mark.client("transformers", "pipeline: `batch_size` where it is made, from objects too, is that of every call")
def test_the_batch_size_of_a_pipeline(pipe, tiny_checkpoint, answers, monkeypatch):
    sizes, generate = [], pipe.model.generate

    def counting(input_ids, **options):
        sizes.append(len(input_ids))
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(pipe.model, "generate", counting)
    for model in (str(tiny_checkpoint), pipe.model):
        processor = None if isinstance(model, str) else pipe.processor
        options = {"processor": processor, "batch_size": 2, "pipeline_class": LlavaUhdV2Pipeline}
        batching = pipeline("image-text-to-text", model=model, **options)
        results = batching(text=list(CHATS.values()), **ANSWER)
        assert texts_of(results) == [answers[name] for name in CHATS]
    assert sizes == [2, 2, 1]


@pytest.mark.client("transformers", "pipeline: single inputs are answered as by transformers' own class")
def test_our_class_is_theirs_for_single_inputs(pipe, plain, answers, tiny_checkpoint):
    assert type(pipe) is LlavaUhdV2Pipeline and isinstance(pipe, ImageTextToTextPipeline)
    assert type(plain) is ImageTextToTextPipeline
    assert answers_of(plain) == answers
    loaded = pipeline("image-text-to-text", model=str(tiny_checkpoint))
    assert type(loaded) is ImageTextToTextPipeline
    assert answers_of(loaded) == answers


BEAMS = {"num_beams": 3, "max_new_tokens": ANSWER["max_new_tokens"]}


@pytest.mark.client("transformers", "pipeline: beams in a batch")
def test_batches_of_beams(pipe, plain):
    chats = [CHATS["two images"], CHATS["a small one"]]
    expected = [plain(text=chat, generate_kwargs=BEAMS) for chat in chats]
    assert pipe(text=chats, batch_size=2, generate_kwargs=BEAMS) == expected


@pytest.mark.skipif(version.parse(transformers.__version__) < version.parse("5.24"), reason="keeps one answer")
@pytest.mark.client("transformers", "pipeline: several answers to each input of a batch")
def test_batches_of_several_answers(pipe, plain):
    beams = {**BEAMS, "num_return_sequences": 2}
    chats = [CHATS["two images"], CHATS["a small one"]]
    expected = [plain(text=chat, generate_kwargs=beams) for chat in chats]
    assert pipe(text=chats, batch_size=2, generate_kwargs=beams) == expected
    assert [len(answers) for answers in expected] == [2, 2]


@pytest.mark.client("transformers", "pipeline: its own class joins images of one shape only (a limit)")
def test_batches_of_transformers(plain, answers):
    turned = [say("What is this?", WIDE.transpose(1))]
    results = plain(text=[CHATS["one image"], turned], batch_size=2, **ANSWER)
    assert texts_of(results) == [answers["one image"], plain(text=turned, **ANSWER)[0]["generated_text"]]
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        plain(text=[CHATS["one image"], CHATS["a small one"]], batch_size=2, **ANSWER)
    with pytest.raises(ValueError, match="different keys"):
        plain(text=[CHATS["one image"], CHATS["no image"]], batch_size=2, **ANSWER)


@pytest.mark.client("transformers", "pipeline: other models get transformers' own class, and answer as with it")
def test_other_models(tmp_path):
    folder = write_llava(tmp_path / "llava")
    theirs = pipeline("image-text-to-text", model=str(folder))
    assert type(theirs) is ImageTextToTextPipeline
    objects = {"model": theirs.model, "processor": theirs.processor}
    assert type(pipeline("image-text-to-text", **objects)) is ImageTextToTextPipeline
    named = pipeline("image-text-to-text", **objects, pipeline_class=ImageTextToTextPipeline)
    texts = ["<image>\nWhat is this?", "<image>\nAnd what may this be?"]
    for options in ({}, {"batch_size": 2}):
        results = [pipe(images=[WIDE, SMALL], text=texts, **options, **ANSWER) for pipe in (theirs, named)]
        assert results[0] == results[1] and all(result["generated_text"] for result in results[0])
    with pytest.raises(ValueError, match="different keys"):
        theirs(text=[[say("What is this?", WIDE)], [say("Who are you?")]], batch_size=2, **ANSWER)


@pytest.mark.client("transformers", "pipeline: a folder with code, without the package, alone and in batches")
def test_a_folder_with_code(tiny_checkpoint, answers, tmp_path):
    export_checkpoint(tiny_checkpoint, tmp_path / "with-code", CardRequest(), with_code=True)
    python = make_environment(tmp_path / "venv")
    command = [python, "-I", ROOT / "tests/ecosystem/pipeline_answers.py", tmp_path / "with-code", tmp_path / "saved"]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    alone, *batches = json.loads(done.stdout)
    assert alone == answers
    assert batches == 3 * [[answers[name] for name in CHATS]]


@pytest.mark.client("transformers", "pipeline: a folder with code, with the package, whose classes are taken")
@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}], ids=["", "trusted"])
def test_a_folder_with_code_and_the_package(tiny_checkpoint, answers, tmp_path, options):
    export_checkpoint(tiny_checkpoint, tmp_path / "with-code", CardRequest(), with_code=True)
    plain = pipeline("image-text-to-text", model=str(tmp_path / "with-code"), **options)
    assert type(plain) is ImageTextToTextPipeline
    assert answers_of(plain) == answers
    options |= {"pipeline_class": LlavaUhdV2Pipeline, "batch_size": 2}
    batching = pipeline("image-text-to-text", model=str(tmp_path / "with-code"), **options)
    assert (
        type(batching.model).__module__
        == type(plain.model).__module__
        == "llava_uhd_v2_hf.model.modeling_llava_uhd_v2"
    )
    assert texts_of(batching(text=list(CHATS.values()), **ANSWER)) == [answers[name] for name in CHATS]
