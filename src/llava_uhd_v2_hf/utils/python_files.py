# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Runs Python files that a user names: scripts that make records, and extensions."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def run_python_file(path: str | Path, *, importable: bool = False) -> ModuleType:
    """Runs a file as a module; it can import what lies beside it.

    Args:
        path: of the file.
        importable: whether other code can import the module by the file's name from then on.

    Raises:
        ValueError: if there is no such file, it can't be run, or its name can't be that of an importable module.
    """
    file = Path(path).resolve()
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"There is no Python file {path}.")
    module = importlib.util.module_from_spec(spec)
    if importable:
        known = sys.modules.get(file.stem)
        if known is not None and getattr(known, "__file__", None) == str(file):
            return known
        if not file.stem.isidentifier() or file.stem in sys.modules:
            raise ValueError(f"{path} can't be imported as `{file.stem}`: rename it, to a name that no module has.")
        sys.modules[file.stem] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        if importable:
            del sys.modules[file.stem]
        raise ValueError(f"{path} can't be run: {type(error).__name__}: {error}.") from error
    return module


__all__ = ["run_python_file"]
