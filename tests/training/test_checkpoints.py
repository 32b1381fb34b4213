# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint is whole or not used: damage, kills, full disks, killed workers, other trainings, other data."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image
from typer.testing import CliRunner

from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.data.collation import ConversationCollator
from llava_uhd_v2_hf.data.samples import ConversationDataset
from llava_uhd_v2_hf.training import checkpoints, families, folder_lock
from llava_uhd_v2_hf.training.checkpoints import MANIFEST, checkpoint_to_resume
from llava_uhd_v2_hf.training.data_record import compare_data
from llava_uhd_v2_hf.training.folder_lock import LOCK_NAME, locked_folder
from llava_uhd_v2_hf.training.stage_trainer import StageTrainer
from llava_uhd_v2_hf.training.stages.finetune.run import facts_of_data
from llava_uhd_v2_hf.training.stages.vdim.run import train_vdim
from llava_uhd_v2_hf.utils import file_facts as facts_module
from llava_uhd_v2_hf.utils.file_facts import file_facts
from tests.support.finetune_runs import PLAIN, RECIPES, logged, make_recipe, settings, train
from tests.support.paths import ROOT
from tests.training.test_stage_vdim import make_recipe as make_vdim_recipe
from tests.training.test_stage_vdim import photographs, tower  # noqa: F401  fixtures


LORA = ["lora.r=2", "parts.vision_tower.train=false", "training.save_steps=1", "training.save_total_limit=3"]


def arguments_of(folder, process_index=0, world_size=1, resume=None):
    return SimpleNamespace(
        output_dir=str(folder), process_index=process_index, world_size=world_size, resume_from_checkpoint=resume
    )


@pytest.fixture(scope="module")
def finished(tiny_checkpoint, samples, tmp_path_factory):
    """A training of three steps with a checkpoint of each; copy it."""
    return train("sft", tiny_checkpoint, samples, tmp_path_factory.mktemp("finished") / "out", *LORA)


def remove(path):
    path.unlink()
    return "is missing"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return r"(has \d+ bytes, but \d+ were saved|can't be read)"


def empty(path):
    path.write_bytes(b"")
    return r"(has 0 bytes, but \d+ were saved|can't be read)"


def overwrite(path):
    path.write_bytes(b"\0" * path.stat().st_size)
    return "(has other contents than were saved|can't be read)"


@pytest.mark.parametrize("damage", [remove, cut, empty, overwrite])
def test_any_damage_to_any_file_makes_the_checkpoint_before_the_last_one(damage, finished, tmp_path, caplog):
    names = sorted({path.name for path in (finished / "checkpoint-3").iterdir()} - {"training_args.bin"})
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", MANIFEST} < set(names)
    for name in names:
        folder = tmp_path / name
        for step in (2, 3):
            shutil.copytree(finished / f"checkpoint-{step}", folder / f"checkpoint-{step}")
        assert checkpoint_to_resume(arguments_of(folder)) == folder / "checkpoint-3"
        caplog.clear()
        problem = damage(folder / "checkpoint-3" / name)
        assert checkpoint_to_resume(arguments_of(folder)) == folder / "checkpoint-2"
        [record] = caplog.records
        assert record.getMessage().startswith(f"Not whole, and not used: checkpoint-3 ({name} ")
        caplog.clear()
        with pytest.raises(ValueError, match=rf"is not a checkpoint of a training: .*{name}"):
            checkpoint_to_resume(arguments_of(folder, resume=folder / "checkpoint-3"))
        shutil.rmtree(folder / "checkpoint-2")
        message = (
            rf"No checkpoint in {folder} is whole: checkpoint-3 \({name} {problem}.*\)\. Copy one here again, rem"
        )
        with pytest.raises(ValueError, match=message):
            checkpoint_to_resume(arguments_of(folder))


def test_a_training_goes_on_from_the_checkpoint_before_with_the_same_losses(
    finished, tiny_checkpoint, samples, tmp_path, caplog
):
    shutil.copytree(finished, tmp_path / "out")
    (tmp_path / "out/trainer_state.json").unlink()  # as before its result
    remove(tmp_path / "out/checkpoint-3/optimizer.pt")
    cut(tmp_path / "out/checkpoint-2/adapter_model.safetensors")
    output = train("sft", tiny_checkpoint, samples, tmp_path / "out", *LORA)
    assert "checkpoint-3 (optimizer.pt is missing); checkpoint-2 (adapter_model.safetensors has" in caplog.text
    assert f"Resuming from {output / 'checkpoint-1'}." in caplog.text
    assert logged(output, 3) == logged(finished, 3)
    assert all(map(checkpoints.is_whole, output.glob("checkpoint-*")))
    name = "adapter_model.safetensors"
    assert (output / name).read_bytes() == (finished / name).read_bytes()


def test_an_unfinished_checkpoint_is_nothing_to_worry_about(finished, tmp_path, caplog):
    checkpoints.begin_checkpoint(tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-5/optimizer.pt").write_bytes(b"1")
    (tmp_path / "checkpoint-4").mkdir()
    assert checkpoint_to_resume(arguments_of(tmp_path)) is None
    assert "checkpoint-5 (its saving was not finished); checkpoint-4 (its saving was not finished)" in caplog.text
    assert "The training begins anew" in caplog.text
    for name in ("checkpoint-2", "last-checkpoint"):
        shutil.copytree(finished / "checkpoint-2", tmp_path / name)
        assert checkpoint_to_resume(arguments_of(tmp_path)).name in ("checkpoint-2", "last-checkpoint")
        shutil.rmtree(tmp_path / name)


def test_the_checksum_of_a_large_file_is_of_blocks_spread_over_it(tmp_path, monkeypatch):
    monkeypatch.setattr(facts_module, "BLOCK", 10)
    path = tmp_path / "large"
    path.write_bytes(bytes(range(250)) * 10)  # more than 64 blocks
    facts = file_facts(path)
    assert facts["bytes"] == 2500
    for place in (0, 9, 2490, 2499):
        content = bytearray(bytes(range(250)) * 10)
        content[place] ^= 1
        path.write_bytes(content)
        assert file_facts(path)["crc32"] != facts["crc32"]
    path.write_bytes(bytes(2500))
    assert file_facts(path)["crc32"] != facts["crc32"]


def test_two_trainings_never_share_a_folder(tiny_checkpoint, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "PATIENCE", 0)
    arguments = [*settings(tiny_checkpoint, samples, tmp_path / "out", *LORA), *PLAIN]
    with locked_folder(arguments_of(tmp_path / "out")):
        ended = CliRunner().invoke(app, ["train", "sft", RECIPES["sft"], *arguments])
        assert ended.exit_code == 1
        assert ended.stderr.splitlines()[-1].startswith(f"Error: Another training runs in {tmp_path / 'out'}; wait")
        assert os.listdir(tmp_path / "out") == [LOCK_NAME]
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    program = f"import filelock, time; lock = filelock.FileLock('{tmp_path}/out/{LOCK_NAME}'); lock.acquire()"
    program += "; print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(ValueError, match="Another training runs in"):
        families.train("sft", RECIPES["sft"], arguments)
    process.kill()
    process.communicate()
    with locked_folder(arguments_of(tmp_path / "out")):  # a file that a killed training left is no lock
        pass


def add_record(samples):
    records = json.loads((samples / "samples.json").read_text())
    (samples / "samples.json").write_text(json.dumps([*records, records[0]]))


def edit_answer(samples):
    text = (samples / "samples.json").read_text()
    (samples / "samples.json").write_text(text.replace("green", "greyn", 1))


def change_image(samples):
    Image.new("RGB", (99, 99)).save(samples / "003.png")


@pytest.mark.parametrize("data", ["alone", "mixture"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: None, None),
        (change_image, "images"),
        (edit_answer, "{}/samples.json"),
        (add_record, "{}/samples.json, images"),
    ],
)
def test_data_that_has_changed_is_said(change, said, data, tiny_checkpoint, samples, tmp_path, caplog):
    folder = tmp_path / "data"
    shutil.copytree(samples.parent, folder)
    (folder / "mixture.yaml").write_text("sources: [{path: samples.json, samples: 40}]")
    source = folder / {"alone": "samples.json", "mixture": "mixture.yaml"}[data]
    recipe = make_recipe("sft", tiny_checkpoint, source, tmp_path / "out")

    def compare(resumes):
        compare_data(tmp_path, facts_of_data(recipe, ConversationDataset(recipe.data)), resumes=resumes)

    compare(resumes=False)
    compare(resumes=True)
    assert not caplog.text
    change(folder)
    compare(resumes=True)
    expected = [f"Data has changed since this training began: {said.format(folder)}. It goes on with"] if said else []
    found = [record.getMessage() for record in caplog.records]
    assert [message[: len(start)] for message, start in zip(found, expected, strict=True)] == expected
    caplog.clear()
    compare(resumes=False)
    compare(resumes=True)
    assert not caplog.text


@pytest.mark.slow
def test_images_of_an_up_sampler_that_have_changed_are_said(tower, photographs, tmp_path, caplog):  # noqa: F811
    shutil.copytree(photographs, tmp_path / "photographs")
    for steps in (1, 2):
        train_vdim(make_vdim_recipe(tower, tmp_path / "photographs", tmp_path / "out", f"training.max_steps={steps}"))
        assert "Data has changed" not in caplog.text
    next((tmp_path / "photographs").glob("*.png")).unlink()
    train_vdim(make_vdim_recipe(tower, tmp_path / "photographs", tmp_path / "out", "training.max_steps=3"))
    assert "Data has changed since this training began: images." in caplog.text


@pytest.fixture
def in_second_step(monkeypatch):
    """Does something in the second step."""
    training_step = StageTrainer.training_step

    def arm(action):
        def step(trainer, *args, **kwargs):
            if trainer.state.global_step == 1:
                action()
            return training_step(trainer, *args, **kwargs)

        monkeypatch.setattr(StageTrainer, "training_step", step)

    return arm


@pytest.mark.slow
@pytest.mark.parametrize("largest", [20_000, 80_000], ids=["weights", "optimiser"])
def test_a_full_disk_is_one_line_and_loses_nothing(
    largest, finished, tiny_checkpoint, samples, tmp_path, in_second_step
):
    """A limit of the size of files is an error of the same kind, without a disk."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    in_second_step(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard)))
    arguments = [*settings(tiny_checkpoint, samples, tmp_path / "out", *LORA), *PLAIN]
    try:
        with pytest.raises(OSError) as error:
            families.train("sft", RECIPES["sft"], arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    kept = tmp_path / "out/checkpoint-1"
    assert f"{tmp_path / 'out/checkpoint-2'} can't be saved: " in str(error.value) and "\n" not in str(error.value)
    assert f"make room on the disk: {kept} is kept, and the same command goes on from it." in str(error.value)
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-1"]
    in_second_step(lambda: None)
    assert logged(families.train("sft", RECIPES["sft"], arguments), 3) == logged(finished, 3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_is_one_line(number, finished, tiny_checkpoint, samples, tmp_path, monkeypatch):
    process, encode = os.getpid(), ConversationCollator.encode

    def kill_worker(collator, sample, name):
        if os.getpid() != process and (tmp_path / "out/checkpoint-1" / MANIFEST).exists():
            os.kill(os.getpid(), number)
        return encode(collator, sample, name)

    more = [*LORA, "training.dataloader_num_workers=1", "training.dataloader_prefetch_factor=1"]
    arguments = [*settings(tiny_checkpoint, samples, tmp_path / "out", *more), *PLAIN]
    monkeypatch.setattr(ConversationCollator, "encode", kill_worker)
    ended = CliRunner().invoke(app, ["train", "sft", RECIPES["sft"], *arguments])
    assert ended.exit_code == 1 and isinstance(ended.exception, SystemExit)
    [said] = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert said.startswith("Error: DataLoader worker (pid") and "lower `training.dataloader_num_workers`" in said
    monkeypatch.setattr(ConversationCollator, "encode", encode)
    assert logged(families.train("sft", RECIPES["sft"], arguments), 3) == logged(finished, 3)


@pytest.mark.slow
def test_a_training_killed_at_any_moment_goes_on_to_the_same_result(tiny_checkpoint, samples, tmp_path):
    script = ROOT / "tests/support/kill_training.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, script, tiny_checkpoint, samples, tmp_path / "work", "4"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    kills = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(kills) == 4 and any(kill["killed"] and kill["steps"] for kill in kills)
    for kill in kills:
        assert kill["same"] and kill["code"] == 0, kill
        assert not kill["result"] or kill["steps"] == 6, kill
