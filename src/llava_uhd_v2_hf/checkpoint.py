# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Whether a name is that of a checkpoint of this model."""

import re
from pathlib import Path

from transformers.configuration_utils import PreTrainedConfig

from .configuration_llava_uhd_v2 import LlavaUhdV2Config


def check_checkpoint(model: str) -> None:
    """
    Raises:
        OSError: if the Hub has no such checkpoint or can't be reached.
        ValueError: if it is neither a folder with a config.json nor a Hub id, or holds another kind of model.
    """
    config_file = Path(model) / "config.json"
    if Path(model).is_dir():
        if not config_file.is_file():
            raise ValueError(f"{model} is no checkpoint folder: {config_file} is not there.")
    elif Path(model).parent.is_dir() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model):
        raise ValueError(f"There is no folder {model}, and it is no Hub id like org/name.")
    try:
        model_type = PreTrainedConfig.get_config_dict(model)[0].get("model_type")
    except OSError as error:
        raise OSError(f"{model} can't be read: {error}") from error
    if model_type != LlavaUhdV2Config.model_type:
        raise ValueError(
            f"{model} holds a model of type `{model_type}`, not `{LlavaUhdV2Config.model_type}`. "
            "Convert a released checkpoint with convert/convert_checkpoint.py first."
        )


__all__ = ["check_checkpoint"]
