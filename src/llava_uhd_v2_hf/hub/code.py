# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The code of a checkpoint that loads without this package, with `trust_remote_code=True`."""

import json
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME, PROCESSOR_NAME

from .. import model as model_room
from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration, LlavaUhdV2Model
from ..model.pipeline_llava_uhd_v2 import LlavaUhdV2Pipeline
from ..model.processing_llava_uhd_v2 import LlavaUhdV2Processor
from ..utils.json_files import read_json
from .card import PIPELINE_TAG
from .checkpoint_folder import EXTENSIONS_NAME, Checkpoint
from .extensions import Kind, collect_extensions, outside_kinds


def _reference(cls: type) -> str:
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"


# What transformers loads in each place.
AUTO_MAP = {
    "AutoConfig": _reference(LlavaUhdV2Config),
    "AutoModel": _reference(LlavaUhdV2Model),
    "AutoModelForImageTextToText": _reference(LlavaUhdV2ForConditionalGeneration),
    "AutoImageProcessor": _reference(LlavaUhdV2ImageProcessor),
    "AutoProcessor": _reference(LlavaUhdV2Processor),
}
CUSTOM_PIPELINES = {PIPELINE_TAG: {"impl": _reference(LlavaUhdV2Pipeline), "pt": ["AutoModelForImageTextToText"]}}
CONFIGS = (CONFIG_NAME, PROCESSOR_NAME, "preprocessor_config.json")


def model_files() -> dict[str, Path]:
    """Returns the modules that travel with a checkpoint: name -> path."""
    [folder] = model_room.__path__
    return {path.name: path for path in sorted(Path(folder).glob("*.py")) if path.name != "__init__.py"}


def code_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Returns the files that add code to a checkpoint: its modules, and the configs that name their classes.

    Kinds from outside the package that config.json names bring the source file of their module along.

    Raises:
        ValueError: if a kind is not registered in this process and the checkpoint has no code of it, or its source
            file can't travel; see [`collect_extensions`].
    """
    files = {name: path.read_bytes() for name, path in model_files().items()}
    files |= _extension_files(checkpoint, outside_kinds(checkpoint.config))
    for name in CONFIGS:
        if name in checkpoint.files:
            values = read_json(checkpoint.files[name])
            for owner in (values, values.get("image_processor")):
                if owner is not None:
                    owner["auto_map"] = AUTO_MAP
            if name == CONFIG_NAME:
                values["custom_pipelines"] = CUSTOM_PIPELINES
            files[name] = _to_json(values)
    return files


def _extension_files(checkpoint: Checkpoint, kinds: list[Kind]) -> dict[str, bytes]:
    """Returns the source files of kinds from outside; those that the folder has where a kind is not registered."""
    if not kinds:
        return {}
    if missing := [kind for kind in kinds if kind.value is None]:
        names = (EXTENSIONS_NAME, *checkpoint.extensions)
        code = {name: checkpoint.files[name].read_bytes() for name in names if name in checkpoint.files}
        registered = code.get(EXTENSIONS_NAME, b"").decode()
        if all(f"{kind.registry}[{kind.name!r}] =" in registered for kind in kinds):
            return code
        raise ValueError(
            f"{checkpoint.files[CONFIG_NAME]} names {', '.join(f'{kind.field} `{kind.name}`' for kind in missing)}, "
            "which is not registered: import the module that registers it, then export again."
        )
    return {name: text.encode() for name, text in collect_extensions(kinds, reserved=model_files()).items()}


def _to_json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def check_code(checkpoint: Checkpoint) -> None:
    """Checks that the code that a checkpoint names lies in its folder.

    `save_pretrained` of a model that was loaded from a folder with code names the code but does not copy it.

    Raises:
        ValueError: if files are missing.
    """
    config = checkpoint.config
    references = [*(config.get("auto_map") or {}).values()]
    references += [pipeline["impl"] for pipeline in (config.get("custom_pipelines") or {}).values()]
    named = {f"{reference.rpartition('.')[0]}.py" for reference in references if "--" not in reference}
    if missing := sorted({*named, *checkpoint.extensions} - set(checkpoint.files)):
        raise ValueError(f"{CONFIG_NAME} names code that is not there: {', '.join(missing)}. Add it with --with-code.")


__all__ = ["AUTO_MAP", "CUSTOM_PIPELINES", "check_code", "code_files", "model_files"]
