# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Clients that `make test` installs in folders of their own, for processes of their own."""

import os
import subprocess
import sys
from pathlib import Path


class Client:
    """A client in .venv/NAME; a missing one is an error where this is made."""

    def __init__(self, name):
        self.folder = Path(sys.prefix, name)
        if not (self.folder / name).is_dir():
            raise ModuleNotFoundError(f"{self.folder} is not there; `make test` installs it", name=name)

    def run(self, *arguments, cache):
        """Python with these arguments; what it downloads or converts lies in `cache`."""
        path = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path, "HF_HOME": str(cache), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=cache, text=True, capture_output=True)


__all__ = ["Client"]
