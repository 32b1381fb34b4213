# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A tiny model learns to see: images share their four questions, so that the answer is in the image alone."""

import json

import pytest
from peft import PeftModel
from transformers import AutoProcessor
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.model import projectors_hiwin_llava_uhd_v2 as projector_module
from llava_uhd_v2_hf.training.evaluation import generate_answers, is_exact
from tests.support.finetune_data import CHANCE, permute_images, write_checkpoint, write_samples
from tests.support.finetune_runs import dataset_of, load, logged, train


STEPS = 800
LEARN = ["batch_size=16", "training.per_device_train_batch_size=16", "training.logging_steps=10"]
LEARN += ["training.gradient_checkpointing=false", "training.learning_rate=3e-3"]
SLOW_PARTS = ["parts.vision_tower.learning_rate=2e-4", "parts.window_attention.learning_rate=1e-3"]
SLOW_PARTS += [f"training.max_steps={STEPS}", f"training.save_steps={STEPS}"]
LORA = ["lora.r=32", "lora.alpha=64", "lora.dropout=0"]


def answers_of(model, processor, source, batch_size=16):
    dataset, answers = dataset_of(source), []
    for start in range(0, len(dataset), batch_size):
        batch = [dataset[number] for number in range(start, min(start + batch_size, len(dataset)))]
        answers += generate_answers(model, processor, batch, max_new_tokens=12)
    return answers


def exact_match(answers, source):
    expected = [record["conversations"][-1]["value"] for record in json.loads(source.read_text())]
    return sum(map(is_exact, answers, expected)) / len(expected)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """64 images to learn from, and 32 others; four questions about each."""
    folder = tmp_path_factory.mktemp("pictures")
    return write_samples(folder / "training", images=64), write_samples(folder / "held-out", images=32, seed=1)


@pytest.fixture
def plain_order(monkeypatch):
    """Of the projector: faster at toy sizes."""
    monkeypatch.setattr(projector_module, "reordering_pays", lambda *_: False)


@pytest.fixture(scope="module")
def pretrained_on_pictures(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("learning")
    checkpoint = write_checkpoint(folder / "base", width=64)
    more = ["chat_template=null", "training.max_steps=20", "training.save_strategy=no"]
    return train("pretrain", checkpoint, pictures[0], folder / "pretrained", *LEARN, *more)


def assert_sees(model, processor, pictures):
    """The answers come from the images: right on these, at chance on others', and mostly right on new ones."""
    trained, held_out = pictures
    assert exact_match(answers_of(model, processor, trained), trained) == 1
    permuted = permute_images(trained)
    assert exact_match(answers_of(model, processor, permuted), permuted) == pytest.approx(CHANCE, abs=0.1)
    assert exact_match(answers_of(model, processor, held_out), held_out) >= 3 * CHANCE


@pytest.mark.slow
@pytest.mark.usefixtures("plain_order")
def test_a_model_learns_to_see(pretrained_on_pictures, pictures, tmp_path):
    output = train("sft", pretrained_on_pictures, pictures[0], tmp_path / "sft", *LEARN, *SLOW_PARTS)
    assert list(logged(output, STEPS).values())[-1] < 0.05
    assert_sees(load(output), AutoProcessor.from_pretrained(output), pictures)


@pytest.mark.slow
@pytest.mark.usefixtures("plain_order")
def test_an_adapter_learns_to_see_and_merged_it_answers_the_same(pretrained_on_pictures, pictures, tmp_path):
    output = train("sft", pretrained_on_pictures, pictures[0], tmp_path / "lora", *LEARN, *SLOW_PARTS, *LORA)
    assert list(logged(output, STEPS).values())[-1] < 0.05
    processor = AutoProcessor.from_pretrained(output)
    adapted = PeftModel.from_pretrained(load(pretrained_on_pictures), output)
    assert_sees(adapted, processor, pictures)
    result = CliRunner().invoke(app, ["merge", str(output), str(tmp_path / "merged")])
    assert result.exit_code == 0, result.output
    for source in pictures:
        assert answers_of(load(tmp_path / "merged"), processor, source) == answers_of(adapted, processor, source)
