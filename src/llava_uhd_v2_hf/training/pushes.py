# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a training sends to the Hub: the files that it wrote."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from huggingface_hub import HfApi
from transformers import trainer as transformers_trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CHAT_TEMPLATE_FILE,
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    IMAGE_PROCESSOR_NAME,
    PROCESSOR_NAME,
)

from .card import CARD_NAME
from .curves import CURVES_NAME
from .run_state import RECIPE_NAME


# of `output_dir`; whatever else lies there is the user's
WRITTEN = (
    *(CONFIG_NAME, GENERATION_CONFIG_NAME, "model*.safetensors", "model.safetensors.index.json"),
    *(ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME),
    *(PROCESSOR_NAME, IMAGE_PROCESSOR_NAME, CHAT_TEMPLATE_FILE, "chat_templates/*.jinja"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt"),
    *("added_tokens.json", "special_tokens_map.json"),
    *(CARD_NAME, CURVES_NAME, RECIPE_NAME, TRAINER_STATE_NAME, "runs/*"),
)


class TrainingApi(HfApi):
    """The Hub's client, which uploads of a training's folder only what the training wrote.

    `training_args.bin` stays here: it is a pickle that holds `hub_token`, and nothing reads it.

    Args:
        folder: `output_dir` of the training.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder).resolve()

    def upload_folder(self, *, folder_path: str | Path, **options: Any) -> Any:
        """Uploads a folder as [`HfApi.upload_folder`] does.

        Args:
            folder_path: the training's, or one of its checkpoints, all of which is sent.
            options: of [`HfApi.upload_folder`].
        """
        options["ignore_patterns"] = [*(options.get("ignore_patterns") or ()), f"*{TRAINING_ARGS_NAME}"]
        if Path(folder_path).resolve() == self.folder:
            options["allow_patterns"] = list(WRITTEN)
        return super().upload_folder(folder_path=folder_path, **options)


@contextmanager
def pushing_with(api: TrainingApi) -> Iterator[None]:
    """Has `Trainer` upload with this client; it has no argument for which files of `output_dir` it uploads.

    Args:
        api: kept for the whole training, so that its uploads follow each other.
    """
    with mock.patch.object(transformers_trainer, "hf_api", lambda: api):
        yield


__all__ = ["TrainingApi", "pushing_with"]
