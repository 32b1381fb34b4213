# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Imports every module of the installed package where nothing is found that only its extras bring.

    python imports_without_extras.py

Writes JSON: module -> None, or the name of the module that is missing.
"""

import contextlib
import importlib
import json
import pkgutil
import re
import sys
from importlib import metadata
from importlib.machinery import PathFinder


PACKAGE = "llava_uhd_v2_hf"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(distribution: str, found: set[str]) -> set[str]:
    """The distributions that an installation without extras brings, by the requirements of all of them."""
    found.add(canonical(distribution))
    for requirement in metadata.requires(distribution) or []:
        name = canonical(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
        if "extra ==" in requirement or name in found:
            continue
        with contextlib.suppress(metadata.PackageNotFoundError):  # for another platform or Python
            required(name, found)
    return found


def hide_extras() -> None:
    """Lets imports find only modules of distributions that the package requires without extras."""
    distributions = required(PACKAGE.replace("_", "-"), set())
    hidden = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not any(canonical(owner) in distributions for owner in owners)
    }

    class RequiredFinder(PathFinder):
        @classmethod
        def find_spec(cls, fullname, path=None, target=None):
            return None if fullname.partition(".")[0] in hidden else super().find_spec(fullname, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = RequiredFinder


def main() -> None:
    hide_extras()
    missing: dict[str, str | None] = {}
    for module in pkgutil.walk_packages(importlib.import_module(PACKAGE).__path__, f"{PACKAGE}."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            missing[module.name] = error.name
        else:
            missing[module.name] = None
    print(json.dumps(missing))


if __name__ == "__main__":
    main()
