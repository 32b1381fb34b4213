# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Whether a name is that of a checkpoint of this model, or of an adapter for one."""

import importlib.util
from pathlib import Path

from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import ADAPTER_CONFIG_NAME, find_adapter_config_file

from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..utils.hub_ids import find_folder
from ..utils.json_files import read_json


def is_adapter(model: str) -> bool:
    """Whether this is the folder or the Hub id of an adapter.

    Raises:
        ValueError: if it is neither a folder nor a Hub id.
    """
    folder = find_folder(model)
    if folder is not None:
        return (folder / ADAPTER_CONFIG_NAME).is_file()
    try:
        return find_adapter_config_file(model) is not None
    except OSError:  # not on the Hub
        return False


def base_of(adapter: str) -> str:
    """Folder or Hub id of the checkpoint that an adapter belongs to.

    Raises:
        ValueError: if the adapter doesn't say.
    """
    config_file = find_adapter_config_file(adapter)
    base = read_json(Path(config_file)).get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ValueError(f"{adapter}/{ADAPTER_CONFIG_NAME} has no `base_model_name_or_path`; write the checkpoint's.")
    return base


def lasting_name(model: str) -> str:
    """Returns the absolute path of a folder, which resolves from everywhere, and a Hub id as it is."""
    return str(Path(model).absolute()) if Path(model).is_dir() else model


def check_checkpoint(model: str) -> str:
    """Looks whether a model is one of ours.

    Args:
        model: folder or Hub id of a checkpoint, or of an adapter, whose checkpoint is then looked at.

    Returns:
        Folder or Hub id of the checkpoint.

    Raises:
        ModuleNotFoundError: if it is an adapter, and peft is not installed.
        OSError: if the Hub has no such checkpoint or can't be reached.
        ValueError: if it is neither a folder with a config.json nor a Hub id, or holds another kind of model.
    """
    if is_adapter(model):
        if importlib.util.find_spec("peft") is None:
            raise ModuleNotFoundError(f"{model} is an adapter, which peft loads.", name="peft")
        base = base_of(model)
        try:
            return check_checkpoint(base)
        except (OSError, ValueError) as error:
            reason = f"The checkpoint of the adapter {model}, its `base_model_name_or_path`, can't be used: {error}"
            raise (ValueError if isinstance(error, ValueError) else OSError)(reason) from error
    folder = find_folder(model)
    if folder is not None and not (folder / "config.json").is_file():
        raise ValueError(f"{model} is no checkpoint folder: {folder / 'config.json'} is not there.")
    try:
        model_type = PreTrainedConfig.get_config_dict(model)[0].get("model_type")
    except OSError as error:
        raise OSError(f"{model} can't be read: {error}") from error
    if model_type != LlavaUhdV2Config.model_type:
        raise ValueError(
            f"{model} holds a model of type `{model_type}`, not `{LlavaUhdV2Config.model_type}`. "
            "Convert a released checkpoint with `llava-uhd-v2 convert` first."
        )
    return model


__all__ = ["base_of", "check_checkpoint", "is_adapter", "lasting_name"]
