# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The `demo` command in a process of its own."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.hub_process import CLI


@contextmanager
def served(folder: Path, *arguments: object) -> Iterator[str]:
    """The page's address; its uploads and pictures lie in the folder."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(folder)}
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(
            [*CLI, "demo", *map(str, arguments)], stdout=subprocess.PIPE, stderr=log, env=environment, text=True
        )
        try:
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
            assert found, line + (folder / "log.txt").read_text()
            yield found[0]
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()
