# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The README.md of a result, rendered from a template."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..utils.atomic import atomic_write


CARD_NAME = "README.md"


def render_card(folder: Path, template: Traversable, metadata: ModelCardData, **values: Any) -> None:
    """Writes `folder`/README.md, under a temporary name first.

    Args:
        folder: of the result.
        template: its file.
        metadata: at the top of the card.
        values: what the template takes.
    """
    with resources.as_file(template) as path:
        card = ModelCard.from_template(metadata, template_path=str(path), **values)
    with atomic_write(folder / CARD_NAME) as unfinished:
        unfinished.write_text(str(card), encoding="utf-8")


__all__ = ["render_card"]
