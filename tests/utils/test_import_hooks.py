# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Functions that are called after the import of a module, in packages whose modules import each other in circles."""

import importlib
import inspect
import sys
from importlib.machinery import SourceFileLoader

import pytest

from llava_uhd_v2_hf.utils.import_hooks import call_after_import


SOURCES = {
    "theirs/__init__": "",
    "theirs/auto": "from theirs import base",
    "theirs/base": "from theirs import auto\nDONE = True",  # half imported while `auto` is
    "theirs/broken": "import theirs.auto\nraise OSError",
    "theirs/unrelated": "VALUE = 1",
    "ours/__init__": "",
    "ours/model": "from theirs import auto\nDONE = True",
}


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Names of the half-imported modules at each call after the import of `theirs.auto`."""
    for name, source in SOURCES.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    calls = []

    def register():
        importlib.import_module("theirs.base")
        importlib.import_module("ours.model")
        calls.append([name for name in ("theirs.base", "ours.model") if not hasattr(sys.modules[name], "DONE")])

    call_after_import("theirs.auto", register, packages=("theirs", "ours"))
    yield calls
    for name in SOURCES:
        sys.modules.pop(name.replace("/", ".").removesuffix(".__init__"), None)


@pytest.mark.parametrize("first", ["theirs.auto", "theirs.base", "ours.model"])
def test_the_call_waits_until_no_module_is_half_imported(calls, first):
    importlib.import_module("theirs.unrelated")
    assert calls == []
    finders = len(sys.meta_path)
    importlib.import_module(first)
    assert calls == [[]] and len(sys.meta_path) == finders - 1
    importlib.reload(sys.modules["theirs.auto"])
    assert calls == [[]]


def test_a_module_that_is_imported_already_is_no_reason_to_wait(calls):
    importlib.import_module("theirs.auto")
    finders, later = list(sys.meta_path), []
    call_after_import("theirs.auto", lambda: later.append(True), packages=("theirs",))
    assert later == [True] and sys.meta_path == finders


def test_modules_keep_their_loaders(calls):
    for name in ("theirs.unrelated", "theirs.auto"):
        module = importlib.import_module(name)
        assert type(module.__loader__) is type(module.__spec__.loader) is SourceFileLoader
        assert inspect.getsource(module).rstrip("\n") == SOURCES[name.replace(".", "/")]


def test_a_failed_import_defers_the_call(calls):
    with pytest.raises(OSError):
        importlib.import_module("theirs.broken")
    assert calls == []
    importlib.import_module("theirs.unrelated")
    assert calls == [[]]


def test_two_hooks_both_call(calls):
    more = []
    call_after_import("theirs.auto", lambda: more.append(True), packages=("theirs", "ours"))
    importlib.import_module("theirs.base")
    assert calls == [[]] and more == [True]
