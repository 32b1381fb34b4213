# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""A JSON file beside a score, with what it depends on."""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, cached_file

from ..inference.checkpoints import base_of, is_adapter
from ..utils.atomic import atomic_write


PACKAGES = ("llava-uhd-v2-hf", "transformers", "tokenizers", "torch", "numpy", "pillow")
HASHED = (".json", ".jinja", ".model", ".safetensors")


def describe_checkpoint(model: str) -> dict[str, Any]:
    """Its name and the SHA-256 of each of its files; of an adapter also those of the checkpoint that it belongs to.

    Args:
        model: folder or Hub id, whose files have been downloaded.
    """
    adapter = is_adapter(model)
    folder = Path(cached_file(model, ADAPTER_CONFIG_NAME if adapter else CONFIG_NAME)).parent
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in HASHED:
            with path.open("rb") as file:
                files[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": model, "files": files, **({"base": describe_checkpoint(base_of(model))} if adapter else {})}


def describe_versions(harness: str) -> dict[str, str]:
    """Versions of Python and of the packages that a score depends on.

    Args:
        harness: its module.
    """
    names = (*PACKAGES, *dict.fromkeys(packages_distributions()[harness]))
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


class Record:
    """What a score depends on, and what was asked.

    Args:
        path: of the JSON file.
        facts: the same for every question.

    Raises:
        ValueError: if the file is there and says other facts: it belongs to other results.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]):
        self.path = path
        self.facts = json.loads(json.dumps(facts))
        self.tasks: dict[str, dict[str, Any]] = {}
        self._hashes: dict[str, Any] = {}
        if path.exists():
            there = json.loads(path.read_text(encoding="utf-8"))
            if changed := [name for name, value in self.facts.items() if there.get(name) != value]:
                raise ValueError(
                    f"{path} records results with other {', '.join(changed)}; choose another name for this record, "
                    "and another folder for its results."
                )

    def add(self, task: str, prompt: str, generation: Mapping[str, Any]) -> None:
        """Notes a question.

        Args:
            task: that it belongs to.
            prompt: the whole text that the model gets, with `<image>` in the places of the images.
            generation: options of `generate`, and `until`.
        """
        noted = self.tasks.setdefault(task, {"questions": 0, "first_prompt": prompt, "generation": []})
        noted["questions"] += 1
        if generation not in noted["generation"]:
            noted["generation"].append(dict(generation))
        digest = self._hashes.setdefault(task, hashlib.sha256())
        digest.update(f"{prompt}\0".encode())
        noted["prompts_sha256"] = digest.hexdigest()

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**self.facts, "tasks": self.tasks}, indent=2, ensure_ascii=False)
        with atomic_write(self.path) as unfinished:
            unfinished.write_text(f"{text}\n", encoding="utf-8")


__all__ = ["Record", "describe_checkpoint", "describe_versions"]
