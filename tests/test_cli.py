# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from conftest import set_fixed_weights
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from llava_uhd_v2_hf import LlavaUhdV2ForConditionalGeneration
from llava_uhd_v2_hf.cli import app


@pytest.fixture(scope="module")
def checkpoint(converted_checkpoint, tmp_path_factory):
    """The converted checkpoint, made to speak the words of its toy tokenizer (past the 256 bytes) and no others."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = AutoModelForImageTextToText.from_pretrained(converted_checkpoint, dtype=torch.float32)
    set_fixed_weights(model.lm_head)
    with torch.no_grad():
        model.lm_head.weight[:260] = 0
        model.lm_head.weight[520:] = 0
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(converted_checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.effect_mandelbrot((640, 420), (-2, -1.2, 1, 1.2), 100).convert("RGB").save(path)
    return path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_line(result, *words):
    """Exit code 1, one line on stderr that has the words, nothing on stdout."""
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    for word in words:
        assert str(word) in result.stderr


def test_help_lists_the_sub_commands():
    result = run("--help")
    assert result.exit_code == 0
    assert "ask" in result.stdout


def test_ask_prints_the_answer_of_generate(checkpoint, photo):
    result = run("ask", "What is this?", "--model", checkpoint, "--image", photo, "--max-new-tokens", 5)

    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    content = [{"type": "image", "image": str(photo)}, {"type": "text", "text": "What is this?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = processor.decode(ids, skip_special_tokens=True)
    assert answer.strip()
    assert (result.exit_code, result.stdout.strip()) == (0, answer.strip())


@pytest.mark.parametrize(("options", "grid"), [((), (1, 2)), (("--max-slices", 1), (0, 0))])
def test_max_slices_reaches_the_processor(checkpoint, photo, monkeypatch, options, grid):
    seen = {}
    monkeypatch.setattr(LlavaUhdV2ForConditionalGeneration, "generate", lambda self, **inputs: seen.update(inputs))
    result = run("ask", "What is this?", "--model", checkpoint, "--image", photo, *options)
    assert result.exit_code == 0, result.stderr
    assert tuple(seen["image_sizes"][0, :2].tolist()) == grid


def test_missing_image(checkpoint):
    result = run("ask", "What?", "--model", checkpoint, "--image", "no/such/photo.png")
    assert_one_line(result, "no/such/photo.png")


def test_file_that_is_no_image(checkpoint, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no pixels here")
    assert_one_line(run("ask", "What?", "--model", checkpoint, "--image", text), text)


def test_folder_that_is_not_there(photo, tmp_path):
    assert_one_line(run("ask", "What?", "--model", tmp_path / "none", "--image", photo), tmp_path / "none")


def test_folder_without_a_checkpoint(photo, tmp_path):
    assert_one_line(run("ask", "What?", "--model", tmp_path, "--image", photo), tmp_path)


def test_checkpoint_that_is_not_converted(authors_checkpoint, photo):
    result = run("ask", "What?", "--model", authors_checkpoint, "--image", photo)
    assert_one_line(result, authors_checkpoint, "llava_llama", "convert_checkpoint.py")
