# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' `pipeline("image-text-to-text")`: prompts, chats, streams, batches, and folders with code."""

import json
import os
import subprocess
from threading import Thread

import pytest
import torch
from conftest import ROOT
from pipeline_answers import ANSWER, CHATS, PROMPTS, SMALL, WIDE, answers_of, say
from test_hub import make_environment
from transformers import TextIteratorStreamer, pipeline

from llava_uhd_v2_hf.card import CardRequest
from llava_uhd_v2_hf.hub import export_checkpoint
from llava_uhd_v2_hf.pipeline import LlavaUhdV2Pipeline


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return pipeline("image-text-to-text", model=str(tiny_checkpoint))


@pytest.fixture(scope="module")
def joining(pipe):
    """The pipeline that joins images of any shapes."""
    return pipeline("image-text-to-text", pipe.model, processor=pipe.processor, pipeline_class=LlavaUhdV2Pipeline)


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


@pytest.mark.client("transformers", "pipeline: `LlavaUhdV2Pipeline` joins images of any shapes, and chats without any")
@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_batches(joining, answers, batch_size):
    results = joining(text=list(CHATS.values()), batch_size=batch_size, **ANSWER)
    assert texts_of(results) == [answers[name] for name in CHATS]
    stream = joining((chat for chat in CHATS.values()), batch_size=batch_size, **ANSWER)
    assert texts_of(stream) == [answers[name] for name in CHATS]


@pytest.mark.client("transformers", "pipeline: `LlavaUhdV2Pipeline` answers single inputs like transformers' own")
def test_the_joining_pipeline_alone(joining, answers):
    assert answers_of(joining) == answers


@pytest.mark.client("transformers", "pipeline: beams and several answers in a batch")
def test_batches_of_beams(pipe, joining):
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": ANSWER["max_new_tokens"]}
    chats = [CHATS["two images"], CHATS["a small one"]]
    expected = [pipe(text=chat, generate_kwargs=beams) for chat in chats]
    assert joining(text=chats, batch_size=2, generate_kwargs=beams) == expected
    assert [len(answers) for answers in expected] == [2, 2]


@pytest.mark.client("transformers", "pipeline: its own `batch_size` takes images of one shape only (a limit)")
def test_batches_of_transformers(pipe, answers):
    turned = [say("What is this?", WIDE.transpose(1))]
    results = pipe(text=[CHATS["one image"], turned], batch_size=2, **ANSWER)
    assert texts_of(results) == [answers["one image"], pipe(text=turned, **ANSWER)[0]["generated_text"]]
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        pipe(text=[CHATS["one image"], CHATS["a small one"]], batch_size=2, **ANSWER)
    with pytest.raises(ValueError, match="different keys"):
        pipe(text=[CHATS["one image"], CHATS["no image"]], batch_size=2, **ANSWER)


@pytest.mark.client("transformers", "pipeline: a folder with code, where the package can't be imported")
def test_a_folder_with_code(tiny_checkpoint, answers, tmp_path):
    export_checkpoint(tiny_checkpoint, tmp_path / "with-code", CardRequest(), with_code=True)
    python = make_environment(tmp_path / "venv")
    command = [python, "-I", ROOT / "tests/ecosystem/pipeline_answers.py", tmp_path / "with-code"]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == answers
