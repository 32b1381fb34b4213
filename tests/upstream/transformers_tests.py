# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""transformers' own common tests, of the version that is installed: fetched from PyPI and made importable.

Importing this module makes it the package of the test files, so that `from transformers_tests.test_modeling_common
import ModelTesterMixin` works. The files come from the source distribution, once, and stay in .cache/ of the clone.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

import transformers


# transformers skips its slow tests without this; it is read when transformers.testing_utils is imported.
os.environ["RUN_SLOW"] = "1"

FILES = ("test_modeling_common.py", "test_processing_common.py", "test_image_processing_common.py")
ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache/transformers_tests"
PICTURE = ROOT / "tests/golden/pixels/gray.png"


def fetch(version: str) -> Path:
    """The folder with transformers' common tests of one version; downloads them if they are not there yet.

    Raises:
        RuntimeError: if pip can't download the source distribution, with what pip says.
        KeyError: if the source distribution lacks one of the files.
    """
    folder = CACHE / version
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--dest", temporary]
        done = subprocess.run([*command, f"transformers=={version}"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"The tests of transformers {version} can't be fetched from PyPI:\n{done.stderr}")
        unpacked = Path(temporary, "unpacked")
        unpacked.mkdir()
        with tarfile.open(Path(temporary, f"transformers-{version}.tar.gz")) as archive:
            for name in FILES:
                source = archive.extractfile(f"transformers-{version}/tests/{name}")
                (unpacked / name).write_bytes(source.read())
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.is_dir():  # it is where another process was faster
                raise
    return folder


def url_to_local_path(url: str) -> str:
    """A picture of ours in the place of one on the Hub; other files are left to tests that don't run here."""
    return str(PICTURE) if url.endswith((".png", ".jpg")) else url


def add_stub(name: str, **contents):
    """Puts a module with these contents in the place of one that the source distribution doesn't have."""
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(contents)


# Exactly what the test files import and the source distribution lacks; anything else fails as an ImportError.
add_stub(f"{__name__}.exporters")
add_stub(f"{__name__}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
add_stub(f"{__name__}.generation")
add_stub(f"{__name__}.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
add_stub("fetch_hub_objects_for_ci", url_to_local_path=url_to_local_path)

__path__ = [str(fetch(transformers.__version__))]
