# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A conversion killed at any point leaves nothing that loads unless it is complete, and the next one succeeds."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.checkpoints import write_released
from tests.support.paths import ROOT


SHARDS = [f"model-0000{index}-of-00003.safetensors" for index in (1, 2, 3)]
FILES = [*SHARDS, "model.safetensors.index.json", "config.json.partial", "generation_config.json", "conversion.json"]
# Points at which conversions are killed; what else the conversion does to files is added to them.
STEPS = {
    *(f"before {name}" for name in FILES),
    *(f"half of write 1 to {name}" for name in FILES),
    *(f"half of write 2 to {name}" for name in SHARDS),
    *(f"after {name}" for name in FILES),
    "os.rename config.json.partial to config.json",
}


@pytest.mark.slow
def test_nothing_unfinished_loads_after_a_kill_and_the_next_run_succeeds(reference, tmp_path):
    source = write_released(reference, "c_llama", tmp_path / "source")
    command = [sys.executable, ROOT / "tests/support/kill_conversion.py", source, source / "vision_tower_config.json"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    result = subprocess.run(
        [*command, tmp_path / "work"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    kills = [json.loads(line) for line in result.stdout.splitlines()]
    assert {kill["step"] for kill in kills} >= STEPS
    assert any(kill["step"].endswith(".partial to model") for kill in kills)  # the folder's rename
    assert len({kill["step"] for kill in kills}) >= 30
    for kill in kills:
        assert kill["killed"], kill
        assert kill["loads_unfinished"] == [], kill
        assert (kill["next_run"], kill["then"], kill["complete"]) == (0, ["model"], True), kill
