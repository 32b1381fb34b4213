# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Notices the imports of modules without importing them."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class ImportHook(MetaPathFinder):
    """A finder for `sys.meta_path` that calls a function after the execution of some modules.

    The other finders find and load the modules.

    Args:
        watched: says by a module's name whether it is one of them.
        callback: called with the name of a module before its `import` statement ends.
    """

    def __init__(self, watched: Callable[[str], bool], callback: Callable[[str], None]):
        self.watched = watched
        self.callback = callback

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec that the other finders find, with a loader that calls back; None for other modules."""
        if not self.watched(fullname):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_call_back(module: ModuleType) -> None:
            execute(module)
            self.callback(fullname)

        # of this loader alone: its class stays what `inspect` and others expect
        setattr(spec.loader, "exec_module", execute_and_call_back)  # noqa: B010
        return spec


__all__ = ["ImportHook"]
