# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""docs/hub.md: its commands run."""

import re
import shlex
import shutil
import subprocess

import pytest

from tests.support.hub_process import CLI
from tests.support.paths import ROOT


@pytest.mark.slow
def test_commands_of_the_documentation_run(server, checkpoint, tmp_path):
    text = (ROOT / "docs/hub.md").read_text()
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in blocks.splitlines() if line.startswith("llava-uhd-v2 ")]
    assert len(commands) >= 5
    for name in ("llava-uhd-v2-vicuna-7b", "my-checkpoint"):
        shutil.copytree(checkpoint, tmp_path / name)
    (tmp_path / "my_upsampler.py").write_text("")  # what it registers is in tests/extensions
    for _, *arguments in commands:
        done = subprocess.run(
            [*CLI, *arguments], cwd=tmp_path, env=server.environment(), text=True, capture_output=True
        )
        assert done.returncode == 0, (arguments, done.stderr)
    for repo_id in re.findall(r"push \S+ (\S+)", blocks):
        assert "config.json" in server.files(repo_id)
