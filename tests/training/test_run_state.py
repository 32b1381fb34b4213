# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A command that is repeated: a finished training stays as it is, whatever its steps were counted by."""

import json

import datasets
import pytest

from llava_uhd_v2_hf.training.stages.vdim.run import train_vdim
from tests.support.finetune_runs import logged, train
from tests.training.test_stage_vdim import make_recipe as make_vdim_recipe
from tests.training.test_stage_vdim import photographs, shards, tower  # noqa: F401  fixtures


LORA = ["lora.r=2", "parts.vision_tower.train=false"]
# 32 samples in batches of 8 make an epoch of 4 steps
CASES = {
    "full": ("sft", []),
    "pretrain": ("pretrain", []),
    "lora": ("sft", LORA),
    "accumulated": ("sft", [*LORA, "training.per_device_train_batch_size=2"]),
    "half an epoch": ("sft", [*LORA, "training.max_steps=-1", "training.num_train_epochs=0.5"]),
    "in the second epoch": ("sft", [*LORA, "training.max_steps=5"]),
    "without checkpoints": ("sft", [*LORA, "training.save_strategy=no"]),
    "streamed": ("pretrain", ["data.streaming=true"]),
}


def contents(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def source(samples, tmp_path, monkeypatch):
    """Writes the samples as rows too, for streams."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    records = json.loads(samples.read_text())
    rows = [{**record, "image": str(samples.parent / record["image"])} for record in records]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    return lambda case: tmp_path / "rows.parquet" if case == "streamed" else samples


def slow_but(fast, cases):
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("case", slow_but(["half an epoch", "streamed"], CASES))
def test_a_finished_training_stays_as_it_is(case, tiny_checkpoint, source, tmp_path, caplog):
    stage, more = CASES[case]
    output = train(stage, tiny_checkpoint, source(case), tmp_path / "out", *more)
    before = contents(output)
    for _ in range(3):
        caplog.clear()
        assert train(stage, tiny_checkpoint, source(case), tmp_path / "out", *more) == output
        assert "is finished: nothing was changed" in caplog.text
    assert contents(output) == before
    with pytest.raises(ValueError, match=r"another recipe \(training.learning_rate differ\)"):
        train(stage, tiny_checkpoint, source(case), tmp_path / "out", *more, "training.learning_rate=0.1")


@pytest.mark.parametrize(
    "case", slow_but(["accumulated"], ["full", "lora", "accumulated", "half an epoch", "streamed"])
)
def test_a_training_killed_before_its_result_writes_it_without_another_step(case, tiny_checkpoint, source, tmp_path):
    stage, more = CASES[case]
    output = train(stage, tiny_checkpoint, source(case), tmp_path / "out", *more)
    [weights] = output.glob("*model.safetensors")
    [checkpoint] = output.glob("checkpoint-*")
    steps = logged(output, checkpoint.name.removeprefix("checkpoint-"))
    before = weights.read_bytes()
    for name in (weights.name, "trainer_state.json"):
        (output / name).unlink()
    train(stage, tiny_checkpoint, source(case), tmp_path / "out", *more)
    assert weights.read_bytes() == before and list(output.glob("checkpoint-*")) == [checkpoint]
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    assert {entry["step"]: entry["loss"] for entry in history if "loss" in entry} == steps


@pytest.mark.slow
@pytest.mark.parametrize("streaming", ["false", "true"])
def test_a_finished_up_sampler_stays_as_it_is_until_it_gets_more_steps(
    streaming,
    tower,  # noqa: F811
    photographs,  # noqa: F811
    shards,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    images = shards if streaming == "true" else photographs
    more = [f"data.streaming={streaming}", "training.per_device_train_batch_size=2"]
    result = train_vdim(make_vdim_recipe(tower, images, tmp_path / "out", *more))
    before = contents(tmp_path / "out")
    for _ in range(3):
        assert train_vdim(make_vdim_recipe(tower, images, tmp_path / "out", *more)) == result
    assert contents(tmp_path / "out") == before
    train_vdim(make_vdim_recipe(tower, images, tmp_path / "out", *more, "training.max_steps=4"))
    assert list(logged(tmp_path / "out", 4)) == [1, 2, 3, 4]
