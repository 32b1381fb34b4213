# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What trainings upload: the files that they wrote, whoever calls the client."""

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects
from transformers import trainer

from llava_uhd_v2_hf.training.pushes import TrainingApi, pushing_with


RESULT = [
    "README.md",
    "config.json",
    "model-00001-of-00002.safetensors",
    "recipe.yaml",
    "runs/a/events.out",
    "losses.png",
]
OTHERS = [".env", "credentials.json", "notes.md", "training_args.bin", "optimizer.pt", "LICENSE.env", "x/config.json"]
CHECKPOINT = ["optimizer.pt", "trainer_state.json", "rng_state.pth"]


@pytest.mark.parametrize("place", ["trainer", "end"])
def test_a_training_sends_what_it_wrote(tmp_path, monkeypatch, place):
    sent = {}

    def upload_folder(self, *, folder_path, allow_patterns=None, ignore_patterns=None, **options):
        files = [path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()]
        sent[options["path_in_repo"]] = {
            *filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        }

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    checkpoint = tmp_path / "checkpoint-3"
    names = [*RESULT, *OTHERS, *(f"checkpoint-3/{name}" for name in (*CHECKPOINT, "training_args.bin"))]
    for path in (tmp_path / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    api = TrainingApi(tmp_path)
    with pushing_with(api):
        client = trainer.hf_api() if place == "trainer" else api
        client.upload_folder(folder_path=tmp_path, path_in_repo="", ignore_patterns=["_*", "checkpoint-*"])
        client.upload_folder(folder_path=checkpoint, path_in_repo="last-checkpoint")
    assert sent == {"": set(RESULT), "last-checkpoint": set(CHECKPOINT)}
    assert trainer.hf_api() is not api
