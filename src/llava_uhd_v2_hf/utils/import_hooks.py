# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Calls functions after the import of modules, without importing them."""

import sys
import threading
from collections.abc import Callable, Collection, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def call_after_import(name: str, function: Callable[[], None], packages: Collection[str]) -> None:
    """Calls a function when a module has been imported: at once, or before the `import` statement ends.

    Args:
        name: of the module.
        function: called once, or again where another thread imports at the same time.
        packages: top-level packages whose modules import each other in circles, that of `name` among them. The call
            waits until none of their modules is half imported.
    """
    if name in sys.modules:
        function()
    else:
        sys.meta_path.insert(0, _ImportHook(name, function, packages))


class _ImportHook(MetaPathFinder):
    """A finder that wraps the loader of outermost imports: those that no module of the packages causes."""

    def __init__(self, name: str, function: Callable[[], None], packages: Collection[str]):
        self.name, self.function, self.packages = name, function, packages
        self.thread = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if getattr(self.thread, "busy", False) or fullname.partition(".")[0] not in self.packages:
            return None  # the other finders are asked
        self.thread.busy = True
        try:
            others = [finder for finder in sys.meta_path if finder is not self]
            spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        finally:
            self.thread.busy = False
        if spec is not None and spec.loader is not None:
            spec.loader = _HookedLoader(spec.loader, self)
        return spec

    def execute(self, loader: Loader, module: ModuleType) -> None:
        self.thread.busy = True
        try:
            loader.exec_module(module)
            if self.name in sys.modules and self in sys.meta_path:
                self.function()
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
        finally:
            self.thread.busy = False


class _HookedLoader(Loader):
    def __init__(self, loader: Loader, hook: _ImportHook):
        self.loader, self.hook = loader, hook

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Gives the module its own loader, which `inspect`, `runpy` and others ask, and executes it."""
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.hook.execute(self.loader, module)


__all__ = ["call_after_import"]
