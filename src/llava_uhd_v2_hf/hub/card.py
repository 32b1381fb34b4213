# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The model card of a checkpoint: rendered from model_cards/, and checked before anything is published."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

from huggingface_hub import CardData, ModelCard, ModelCardData
from transformers.utils import CONFIG_NAME

from ..model.configuration_llava_uhd_v2 import PROJECTOR_OPTIONS, LlavaUhdV2Config
from ..model.registries_llava_uhd_v2 import PROJECTORS
from ..utils.errors import file_errors
from ..utils.json_files import read_json
from .extensions import outside_kinds


LIBRARY = "transformers"
PIPELINE_TAG = "image-text-to-text"
TAGS = ["llava-uhd-v2", "vision-language", "high-resolution"]
TEMPLATE = "template"
REQUIRED_METADATA = ("license", "base_model", "datasets", "tags", "pipeline_tag", "library_name")
FROM_SCRATCH = "from-scratch"  # tag of a model that is made from no other, whose data need not be on the Hub
USE = re.compile(r"<!-- the next lines, .*?<!-- end -->", re.DOTALL)  # of the template: how to load a checkpoint
OPTIONS = {"license": "--license", "base_model": "--base-model", "datasets": "--dataset"}


@dataclass
class CardRequest:
    """What a user says about the card of a checkpoint.

    Attributes:
        name: a card of model_cards/, without its suffix; None for the folder's own README.md or, where it has none,
            the template for checkpoints of one's own.
        license: a licence id of the Hub, instead of the card's.
        base_model: Hub ids of the models that the checkpoint was made from, instead of the card's.
        datasets: Hub ids of the training data, instead of the card's.
    """

    name: str | None = None
    license: str | None = None
    base_model: Sequence[str] = ()
    datasets: Sequence[str] = ()


def cards_folder() -> Traversable:
    """Returns the folder of card templates: in the package where a wheel is installed, model_cards/ in a clone.

    Raises:
        FileNotFoundError: if it is in neither place.
    """
    packaged = resources.files(__package__) / "model_cards"  # setup.py copies it there
    clone = Path(__file__).parents[3] / "model_cards"
    for folder in (packaged, clone):
        if (folder / f"{TEMPLATE}.md").is_file():
            return folder
    raise FileNotFoundError(f"There is no {TEMPLATE}.md in {packaged} or {clone}; install the package again.")


def card_names() -> list[str]:
    """The cards of released checkpoints, by the names that `--card` takes."""
    names = [file.name for file in cards_folder().iterdir() if file.name.endswith(".md")]
    return sorted({name.removesuffix(".md") for name in names} - {TEMPLATE})


def build_card(folder: Path, request: CardRequest, *, repo_id: str, with_code: bool) -> ModelCard:
    """The card of a checkpoint: a named one, the folder's README.md, or the template; see [`CardRequest`].

    Args:
        folder: with the README.md, if there is one.
        request: which card, and metadata that replace its own.
        repo_id: stands in the card's commands, also in those of a README.md that was rendered from the template.
        with_code: whether the checkpoint comes with its code; likewise.

    Raises:
        ValueError: if the name is unknown or the metadata can't be parsed.
    """
    readme = folder / "README.md"
    if request.name is None and readme.is_file():
        card = _load_card(readme)
        _replace_metadata(card.data, request)
        if USE.search(card.text):  # it was rendered, maybe for another name
            now = build_card(folder, CardRequest(TEMPLATE), repo_id=repo_id, with_code=with_code)
            card.text = USE.sub(lambda _: "".join(USE.findall(now.text)), card.text, count=1)
        return card
    if request.name in (None, TEMPLATE):
        data: CardData = ModelCardData(library_name=LIBRARY, pipeline_tag=PIPELINE_TAG, tags=TAGS)
        body = ""
    elif request.name in card_names():
        card = ModelCard(_read_template(request.name))
        data, body = card.data, card.text.strip()
    else:
        raise ValueError(f"There is no card {request.name!r}; choose one of {', '.join([*card_names(), TEMPLATE])}.")
    _replace_metadata(data, request)
    return ModelCard.from_template(
        cast(ModelCardData, data),
        template_str=_read_template(TEMPLATE),
        title=data.get("model_name") or repo_id.rpartition("/")[2],
        repo_id=repo_id,
        with_code=with_code,
        system=describe_system(folder),
        body=body,
    )


def describe_system(folder: Path) -> str:
    """Says which of the paper's systems a checkpoint is.

    Nothing where there is no config.json, or it names a kind from outside the package.

    Raises:
        OSError, ValueError: if it can't be used.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        return ""
    with file_errors(path, "describes a model that can't be built"):
        if outside_kinds(read_json(path)):
            return ""
        config = LlavaUhdV2Config.from_pretrained(folder)
    projector = config.projector_config
    options = getattr(PROJECTORS[projector.projector_type], "options", PROJECTOR_OPTIONS)
    grid = "x".join(map(str, projector.query_grid))
    tokens = f"{grid} tokens a slice" if "query_grid" in options else "one token a patch"
    read = [f"projector `{projector.projector_type}` ({tokens})", f"levels {', '.join(map(str, projector.levels))}"]
    if max(projector.levels):
        read.append(f"up-sampler `{projector.upsampler}`")
    if "pooling_grid_rule" in options:
        read.append(f"pooling grids `{projector.pooling_grid_rule}`")
    return f"System: {'; '.join(read)}; order of tokens `{config.token_layout}`."


def _read_template(name: str) -> str:
    return (cards_folder() / f"{name}.md").read_text(encoding="utf-8")


def _replace_metadata(data: CardData, request: CardRequest) -> None:
    for key in OPTIONS:
        if value := getattr(request, key):
            data[key] = value if isinstance(value, str) else list(value)


def _load_card(path: Path) -> ModelCard:
    try:
        return ModelCard.load(path)
    except Exception as error:  # of the YAML parser, or of what huggingface_hub does with its result
        reason = " ".join(str(error).split())
        raise ValueError(f"The metadata at the top of {path} can't be read: {reason}") from error


def missing_metadata(card: ModelCard) -> list[str]:
    """What the Hub's metadata must have for the checkpoint to be found and used, and the card lacks."""
    data = card.data
    spared = ("base_model", "datasets") if FROM_SCRATCH in (data.get("tags") or ()) else ()
    missing = [key for key in REQUIRED_METADATA if not data.get(key) and key not in spared]
    if data.get("license") == "other":
        missing += [key for key in ("license_name", "license_link") if not data.get(key)]
    return missing


def check_card(card: ModelCard) -> None:
    """
    Raises:
        ValueError: if metadata are missing or wrong; the message names them and says where to put them.
    """
    data = card.data
    if missing := missing_metadata(card):
        options = [OPTIONS[key] for key in missing if key in OPTIONS]
        raise ValueError(
            f"The model card has no {', '.join(f'`{key}`' for key in missing)}. Write it at the top of the "
            "checkpoint's README.md"
            + (f", or give {', '.join(options)}" if options else "")
            + f"; for a released checkpoint choose its card: --card {'|'.join(card_names())}. A model with the tag "
            f"`{FROM_SCRATCH}` needs no base_model and no datasets."
        )
    expected: dict[str, Any] = {"library_name": LIBRARY, "pipeline_tag": PIPELINE_TAG}
    for key, value in expected.items():
        if data.get(key) != value:
            raise ValueError(f"The model card has `{key}: {data.get(key)}`; for LLaVA-UHD v2 it must be `{value}`.")
    for key in ("base_model", "datasets"):
        values = data.get(key) or []
        for value in [values] if isinstance(values, str) else values:
            if not re.fullmatch(r"([\w-][\w.-]*/)?[\w-][\w.-]*", str(value)):
                raise ValueError(f"The model card has {value!r} in `{key}`; the Hub takes ids like org/name there.")


__all__ = ["CardRequest", "build_card", "card_names", "check_card", "missing_metadata"]
