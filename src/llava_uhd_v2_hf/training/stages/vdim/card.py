# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The card of a pre-trained up-sampler."""

from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from ....inference.vdim_file import VdimFacts
from ...card import render_card


def write_card(folder: Path, facts: VdimFacts, results: dict[str, Any]) -> None:
    """Writes README.md: what was trained, how, and the loss that was measured; see card.md for `results`."""
    base_model = facts.tower if not Path(facts.tower).exists() else None
    data = ModelCardData(tags=["llava-uhd-v2", "vdim", "feature-upsampling"], base_model=base_model)
    template = resources.files(__package__) / "card.md"
    render_card(folder, template, data, facts=facts, tower=Path(facts.tower).name, **results)


__all__ = ["write_card"]
