# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Prints what importing modules changes in transformers, as JSON; run in a process of its own.

    python tests/ecosystem/import_effects.py MODULE [MODULE ...]

Compared are all names of transformers' modules, the attributes of their classes, and the entries of their dicts:
`PIPELINE_REGISTRY`, the mappings behind the Auto classes, tables of attention functions and others.
"""

import importlib
import inspect
import json
import sys
from collections.abc import Mapping

import transformers


missing = object()
# loaded before, so that what importing them changes is not counted
for name in ("pipelines", "trainer", "trainer_callback", "integrations", "masking_utils", "models.auto"):
    importlib.import_module(f"transformers.{name}")
for name in dir(transformers):
    if name.startswith("AutoModel") or name.endswith("_MAPPING"):
        getattr(transformers, name)


def dicts_of(value):
    """The dict itself, or those that an object such as a registry or a lazy mapping holds."""
    if isinstance(value, Mapping) and type(value) is dict:
        yield "", value
    elif type(value).__module__.startswith("transformers.") and not inspect.isclass(value):
        for name, held in list(getattr(value, "__dict__", {}).items()):
            if isinstance(held, dict):
                yield f".{name}", held


def snapshot():
    """{place: object} of names, attributes and entries; entries that are dicts, one level deeper."""
    found = {}
    for module_name, module in sorted(sys.modules.items()):
        if module_name.partition(".")[0] != "transformers" or not inspect.ismodule(module):
            continue
        for name, value in list(vars(module).items()):
            place = f"{module_name}.{name}"
            found[place] = value
            if inspect.isclass(value) and value.__module__ == module_name:
                found |= {f"{place}.{attribute}": member for attribute, member in list(vars(value).items())}
            for part, table in dicts_of(value):
                found[f"{place}{part}[]"] = table
                for key, entry in list(dict.items(table)):
                    found[f"{place}{part}[{key}]"] = entry
                    if type(entry) is dict:
                        found |= {f"{place}{part}[{key}][{inner}]": held for inner, held in entry.items()}
    return found


def table_of(place):
    return f"{place.partition('[')[0]}[]"


def main(names):
    before = snapshot()
    for name in names:
        importlib.import_module(name)
    after = snapshot()
    print(
        json.dumps(
            {
                "replaced": sorted(place for place in before if after.get(place, missing) is not before[place]),
                "added": sorted(place for place in set(after) - set(before) if table_of(place) in before),
                "checked": len(before),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
