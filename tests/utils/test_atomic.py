# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Atomic files and folders: after errors, after kills, beside other processes, and on disks that are too small."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_uhd_v2_hf.utils import atomic
from llava_uhd_v2_hf.utils.atomic import (
    atomic_folder,
    atomic_write,
    check_free_space,
    free_bytes,
    prepare_folder,
    replaced_files,
)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def texts(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def kill_at(step, action):
    """Runs an action in a fork that is killed before its `step`th rename or removal; returns whether it was."""
    process = os.fork()
    if process:
        return os.WIFSIGNALED(os.waitpid(process, 0)[1])
    steps = iter(range(1000))

    def count(event, arguments):
        if event in ("os.rename", "os.remove", "os.rmdir") and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    action()
    os._exit(0)


def kill_at_every_step(action, check):
    """Runs an action again and again, each time killed one step later, and checks what is left every time."""
    step = 0
    while kill_at(step, action):
        check()
        step += 1
    return step


# Files


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as temporary:
        assert temporary.suffix == ".txt"  # from which matplotlib and PIL tell the format
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert texts(tmp_path) == {"a.txt": "new"}


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_text("ne")
        raise KeyError
    assert texts(tmp_path) == {"a.txt": "old"}


# Folders


def test_a_folder_appears_when_it_is_complete(tmp_path):
    output = tmp_path / "deep/output"
    with atomic_folder(output, "key.json") as folder:
        assert not output.exists() and folder.parent == output.parent
        (folder / "key.json.partial").write_text("{}")
        (folder / "sub").mkdir()
    assert sorted(path.name for path in output.iterdir()) == ["key.json", "sub"]
    with pytest.raises(KeyError), atomic_folder(tmp_path / "other", "key.json"):
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]


def test_an_empty_folder_is_taken_and_others_are_refused(tmp_path, monkeypatch):
    output = tmp_path / "output"
    output.mkdir()
    with atomic_folder(output, "key") as folder:
        (folder / "key.partial").touch()
    with pytest.raises(ValueError, match="output exists and is not an empty folder"), atomic_folder(output, "key"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file exists and is not an empty folder"):
        prepare_folder(tmp_path / "file")
    (tmp_path / "mount").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "mount")
    with pytest.raises(ValueError, match="mount is a mount point"):
        prepare_folder(tmp_path / "mount")
    assert names(tmp_path) == ["file", "mount", "output", "output/key"]


def test_left_overs_of_dead_processes_are_removed(tmp_path, capsys):
    host, dead = socket.gethostname(), dead_process()
    kept = [f"output.{host}.{os.getppid()}.partial", f"output.elsewhere.{dead}.partial", "output.partial", "other"]
    removed = [f"output.{host}.{dead}.partial", f"output.{host}.{os.getpid()}.partial"]
    for name in kept + removed:
        (tmp_path / name).mkdir()
    prepare_folder(tmp_path / "output")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    assert capsys.readouterr().out.count("left by a run that did not finish") == 2


def test_a_folder_with_files_is_never_removed(tmp_path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output/config.json.partial").write_text("{}")
    (tmp_path / "output/thesis.tex").write_text("years")
    with pytest.raises(ValueError, match="not an empty folder"):
        prepare_folder(tmp_path / "output")
    assert texts(tmp_path / "output") == {"config.json.partial": "{}", "thesis.tex": "years"}


def test_a_killed_folder_is_complete_or_has_no_key_file(tmp_path):
    output = tmp_path / "output"

    def write():
        with atomic_folder(output, "key") as folder:
            (folder / "key.partial").touch()
            (folder / "other").touch()

    def check():
        found = names(tmp_path)
        assert all(f"{name.removesuffix('key')}other" in found for name in found if name.endswith("/key"))

    assert kill_at_every_step(write, check) >= 2
    assert names(tmp_path) == ["output", "output/key", "output/other"]


# Files in a folder


def put(folder, text, **options):
    with replaced_files(folder, "key", **options) as staged:
        for name in ("key", "a", "z"):
            (staged / name).write_text(text)


def test_files_are_replaced_together(tmp_path):
    put(tmp_path / "new/folder", "old")
    (tmp_path / "new/folder/kept").write_text("kept")
    put(tmp_path / "new/folder", "new")
    assert texts(tmp_path / "new/folder") == {"a": "new", "key": "new", "z": "new", "kept": "kept"}
    with pytest.raises(KeyError), replaced_files(tmp_path / "new/folder", "key") as staged:
        (staged / "a").write_text("newer")
        raise KeyError
    assert texts(tmp_path / "new/folder")["a"] == "new"
    assert len(names(tmp_path / "new/folder")) == 4


@pytest.mark.parametrize("keep_key_file", [False, True])
def test_killed_replacements(tmp_path, keep_key_file):
    put(tmp_path, "old")
    seen = []

    def check():
        seen.append(texts(tmp_path))

    assert kill_at_every_step(lambda: put(tmp_path, "new", keep_key_file=keep_key_file), check) >= 3
    for found in seen:
        if keep_key_file:
            assert found["key"] == "old" or found == dict.fromkeys(("key", "a", "z"), "new")
        elif "key" in found:  # nothing that loads is a mixture
            assert len(set(found.values())) == 1
    assert any(len(set(found.values())) == 2 for found in seen) or not keep_key_file
    assert names(tmp_path) == ["a", "key", "z"]


# Space


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    assert free_bytes(tmp_path / "new/deep") > 0
    check_free_space(tmp_path, 1)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        OSError, match=r"deep needs 5000000 bytes \(5 MB\), but the disk of .* has 1000000 bytes \(1 MB"
    ):
        check_free_space(Path("new/deep"), 5 * 10**6)
    assert names(tmp_path) == []
