# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Kinds from outside the package that a checkpoint needs, and their source files as code of the checkpoint."""

import ast
import keyword
import re
import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..model import registries_llava_uhd_v2 as registries
from .checkpoint_folder import EXTENSIONS_NAME


MODEL_PACKAGE = registries.__name__.rpartition(".")[0]
PACKAGE = MODEL_PACKAGE.partition(".")[0]
# (part of the config, field, registry of the kinds that it names)
FIELDS = (
    ("vision_config", "model_type", "TOWERS"),
    ("projector_config", "upsampler", "UPSAMPLERS"),
    ("projector_config", "projector_type", "PROJECTORS"),
    ("projector_config", "pooling_grid_rule", "POOLING_GRIDS"),
)
MODEL_IMPORT = re.compile(rf"(\s*from\s+){re.escape(MODEL_PACKAGE)}\.(\w+)(?=\s+import\b)")
EXTENSIONS_TEMPLATE = '''\
"""Kinds from outside the package that this checkpoint needs; written by an export with code."""

{imports}


{registrations}

EXTENSIONS = ({names},)
'''


@dataclass(frozen=True)
class Kind:
    """A kind from outside the package.

    Attributes:
        field: that names it in the config, with the config's part.
        name: its name there.
        registry: name of the registry that it belongs to.
        value: its class or function; None if it is not registered in this process.
    """

    field: str
    name: str
    registry: str
    value: Any

    @property
    def module(self) -> str:
        """Returns the module that defines it."""
        return getattr(self.value, "__module__", None) or ""

    @property
    def attribute(self) -> str:
        """Returns its name in its module."""
        return getattr(self.value, "__qualname__", "")


def outside_kinds(config: Mapping[str, Any]) -> list[Kind]:
    """Returns the kinds that a config names and this package does not have.

    Args:
        config: values of a config.json.
    """
    kinds = []
    for part, field, registry in FIELDS:
        if (name := (config.get(part) or {}).get(field)) is None:
            continue  # the default, a kind of the package
        if name not in getattr(registries, registry).built_in:
            value = dict.get(getattr(registries, registry), name)
            kinds.append(Kind(f"{part}.{field}", name, registry, value))
    return kinds


def collect_extensions(kinds: list[Kind], reserved: Container[str]) -> dict[str, str]:
    """Returns the source files of kinds and the module that imports and registers them: name -> text.

    Args:
        kinds: registered kinds from outside the package.
        reserved: names of files that an extension must not replace.

    Raises:
        ValueError: if a kind is not a class or function of a module with a source file, the module's name can't be
            that of a file in the folder, or the file imports what does not travel; the message names file and line.
    """
    sources: dict[str, Path] = {}
    for kind in kinds:
        if kind.module.startswith(f"{MODEL_PACKAGE}."):  # of the package, under another name
            continue
        name, source = f"{kind.module.rpartition('.')[2]}.py", _source_file(kind)
        if name in reserved or sources.setdefault(name, source) != source:
            raise ValueError(f"{source} can't travel with a checkpoint: there is another {name}. Rename the file.")
    attributes = {kind.attribute: kind.value for kind in kinds}
    if ambiguous := [kind for kind in kinds if attributes[kind.attribute] is not kind.value]:
        raise ValueError(f"Several kinds from outside are named {ambiguous[0].attribute}. Rename one of them.")
    return {
        **{name: portable_source(path, reserved) for name, path in sources.items()},
        EXTENSIONS_NAME: _extensions_module(kinds),
    }


def _source_file(kind: Kind) -> Path:
    module = sys.modules.get(kind.module)
    path = getattr(module, "__file__", None)
    name = kind.module.rpartition(".")[2]
    if not path or name == "__main__" or not path.endswith(".py") or not _is_name(name):
        raise ValueError(
            f"The code of {kind.field} `{kind.name}` can't travel with a checkpoint: expected a module in a .py file "
            f"of its own, got `{kind.module}`. Move it into such a file and import it."
        )
    if not _is_name(kind.attribute) or getattr(module, kind.attribute, None) is not kind.value:
        raise ValueError(
            f"The code of {kind.field} `{kind.name}` can't travel with a checkpoint: expected a class or function at "
            f"the top level of {path}, got `{kind.attribute or kind.value}`."
        )
    return Path(path)


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def portable_source(path: Path, reserved: Container[str]) -> str:
    """Returns the text of a source file with imports of `llava_uhd_v2_hf.model` made relative.

    transformers finds the files that a checkpoint's code needs by lines that begin with `from .module import`.

    Args:
        path: the source file.
        reserved: names of the files of `llava_uhd_v2_hf.model`.

    Raises:
        ValueError: if it has relative imports, imports of other modules of this package, or several statements in the
            line of an import.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        line = lines[node.lineno - 1]
        if beside := [name for name in _top_names(node) if (path.parent / f"{name}.py").is_file()]:
            raise ValueError(
                f"{path}, line {node.lineno}: `{line.strip()}` imports {beside[0]}.py, which does not travel with a "
                "checkpoint. Put what is needed of it into the one file."
            )
        if not _imports_package(node):
            continue
        found = MODEL_IMPORT.match(line)
        if not found or f"{found[2]}.py" not in reserved:
            raise ValueError(
                f"{path}, line {node.lineno}: expected imports of other packages, or `from {MODEL_PACKAGE}.<module> "
                f"import <name>` at the beginning of a line, got `{line.strip()}`. Only this file and the modules of "
                f"{MODEL_PACKAGE} travel with a checkpoint, such as registries_llava_uhd_v2 with the registries."
            )
        lines[node.lineno - 1] = f"{found[1]}.{found[2]}{line[found.end() :]}"
    return "\n".join(lines)


def _top_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return [] if isinstance(node, ast.ImportFrom) and node.level else [name.partition(".")[0] for name in names]


def _imports_package(node: ast.Import | ast.ImportFrom) -> bool:
    """Returns whether a statement imports modules of this package, or relatively."""
    if isinstance(node, ast.ImportFrom):
        return node.level > 0 or (node.module or "").partition(".")[0] == PACKAGE
    return any(alias.name.partition(".")[0] == PACKAGE for alias in node.names)


def _extensions_module(kinds: list[Kind]) -> str:
    imports = [f"from .{kind.module.rpartition('.')[2]} import {kind.attribute}" for kind in kinds]
    imports += [f"from .{registries.__name__.rpartition('.')[2]} import {kind.registry}" for kind in kinds]
    return EXTENSIONS_TEMPLATE.format(
        imports="\n".join(dict.fromkeys(imports)),
        registrations="\n".join(f"{kind.registry}[{kind.name!r}] = {kind.attribute}" for kind in kinds),
        names=", ".join(dict.fromkeys(kind.attribute for kind in kinds)),
    )


__all__ = ["Kind", "collect_extensions", "outside_kinds", "portable_source"]
