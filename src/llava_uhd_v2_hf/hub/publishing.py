# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Publishing a checkpoint folder: checking that it is complete, adding code and card, pushing it to the Hub."""

import fnmatch
import gc
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    get_token,
    split_torch_state_dict_into_shards,
)
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import (
    CHAT_TEMPLATE_FILE,
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    PROCESSOR_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    logging,
)

from ..inference.cost import describe_bytes
from ..model.configuration_llava_uhd_v2 import LlavaUhdV2Config
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration, LlavaUhdV2Model
from ..model.processing_llava_uhd_v2 import LlavaUhdV2Processor
from .card import CardRequest, build_card, check_card, missing_metadata


logger = logging.get_logger(__name__)

# What transformers loads in each place, with `trust_remote_code=True`.
REMOTE_CLASSES = {
    "AutoConfig": LlavaUhdV2Config,
    "AutoModel": LlavaUhdV2Model,
    "AutoModelForImageTextToText": LlavaUhdV2ForConditionalGeneration,
    "AutoImageProcessor": LlavaUhdV2ImageProcessor,
    "AutoProcessor": LlavaUhdV2Processor,
}
AUTO_MAP = {auto: f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}" for auto, cls in REMOTE_CLASSES.items()}

CARD_NAME = "README.md"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
REQUIRED_FILES = (CONFIG_NAME, GENERATION_CONFIG_NAME, PROCESSOR_NAME, CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_NAME)
VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Of what else lies in a folder, this is published with it; the rest (optimizer states, logs, pickles) stays here.
OTHER_FILES = (
    "added_tokens.json",
    "chat_templates/*.jinja",
    "conversion.json",
    "recipe.yaml",
    "merges.txt",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "*_llava_uhd_v2.py",
    "LICENSE*",
    "NOTICE*",
)
LINKED_SUFFIXES = (".png", ".jpg", ".svg", ".json", ".jsonl", ".csv", ".md")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass
class Checkpoint:
    """A complete checkpoint folder.

    Attributes:
        files: everything that belongs to it but weights and card: name -> path.
        weights: the safetensors files and, where they are several, their index: name -> path.
        left_out: names of the folder's other files and sub-folders.
    """

    files: dict[str, Path]
    weights: dict[str, Path]
    left_out: list[str]

    @property
    def has_code(self) -> bool:
        """Whether its config.json names the code that it loads with.

        Raises:
            ValueError: if config.json is no JSON.
        """
        return bool(_read_json(self.files[CONFIG_NAME]).get("auto_map"))

    @property
    def num_bytes(self) -> int:
        """Size in bytes of its files, without the card."""
        return sum(path.stat().st_size for path in (*self.files.values(), *self.weights.values()))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Looks at a folder as `from_pretrained` will: all files there, weights readable and whole.

    Raises:
        ValueError: naming everything that is missing, truncated, or of another kind.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    missing = [name for name in REQUIRED_FILES if name not in names]
    if not any(name in names for name in VOCABULARY_FILES):
        missing.append(f"the tokenizer ({', '.join(VOCABULARY_FILES)})")
    if SAFE_WEIGHTS_NAME not in names and SAFE_WEIGHTS_INDEX_NAME not in names:
        pickles = [name for name in names if _matches(name, PICKLES)]
        missing.append(
            SAFE_WEIGHTS_NAME
            + (f" ({', '.join(pickles)} won't do: pickles run code; save the model again)" if pickles else "")
        )
    if missing:
        raise ValueError(f"{folder} is not complete. Missing: {'; '.join(missing)}.")
    config = _read_json(folder / CONFIG_NAME)
    if config.get("model_type") != LlavaUhdV2Config.model_type:
        raise ValueError(
            f"{folder} holds a model of type `{config.get('model_type')}`, not `{LlavaUhdV2Config.model_type}`."
        )

    weights = {name: folder / name for name in _check_weights(folder)}
    published = [*REQUIRED_FILES, *VOCABULARY_FILES, *OTHER_FILES, *_linked_files(folder / CARD_NAME)]
    files = {name: folder / name for name in names if name not in weights and _matches(name, published)}
    left_out = {name.partition("/")[0] for name in names if name not in files | weights and name != CARD_NAME}
    return Checkpoint(files, weights, sorted(left_out))


def _linked_files(card: Path) -> list[str]:
    """Names of the pictures and tables that a card refers to."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return [name for name in re.findall(r"\]\(([\w./-]+)\)", text) if name.endswith(LINKED_SUFFIXES)]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error


def _check_weights(folder: Path) -> list[str]:
    """Names of the weight files that transformers will load, the index first; without an index it is one file."""
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        expected: dict[str, set[str]] = {SAFE_WEIGHTS_NAME: set()}
    else:
        expected = {}
        index = _read_json(folder / SAFE_WEIGHTS_INDEX_NAME)
        for tensor, name in index.get("weight_map", {}).items():
            expected.setdefault(name, set()).add(tensor)
        if not expected:
            raise ValueError(f"{folder / SAFE_WEIGHTS_INDEX_NAME} names no weights.")
    if missing := [name for name in sorted(expected) if not (folder / name).is_file()]:
        raise ValueError(f"{folder} is not complete. Missing: {'; '.join(missing)}.")
    for name, tensors in expected.items():
        try:
            with safe_open(folder / name, "pt") as file:
                lost = sorted(tensors - set(file.keys()))
        except SafetensorError as error:
            raise ValueError(f"{folder / name} is no safetensors file, or not whole: {error}") from error
        if lost:
            raise ValueError(f"{folder / name} has no `{lost[0]}`, which {SAFE_WEIGHTS_INDEX_NAME} says is in it.")
    index_name = [] if (folder / SAFE_WEIGHTS_NAME).is_file() else [SAFE_WEIGHTS_INDEX_NAME]
    return [*index_name, *sorted(expected)]


# Code


def write_code(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes the modules of the model, and the configs that name their classes, into `folder`."""
    for cls in REMOTE_CLASSES.values():
        custom_object_save(cls, folder)  # the module and, following `from .x import`, those that it needs
    for name in (PROCESSOR_NAME, "preprocessor_config.json", CONFIG_NAME):
        if name in checkpoint.files:
            values = _read_json(checkpoint.files[name])
            for owner in (values, values.get("image_processor")):
                if owner is not None:
                    owner["auto_map"] = AUTO_MAP
            text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")


def _check_code(checkpoint: Checkpoint) -> None:
    """Refuses a config.json that names modules which are not there, as after `save_pretrained` of a model that was
    loaded from a folder with code."""
    named = _read_json(checkpoint.files[CONFIG_NAME]).get("auto_map") or {}
    local = {f"{name.rpartition('.')[0]}.py" for name in named.values() if "--" not in name}
    if missing := sorted(local - set(checkpoint.files)):
        raise ValueError(f"{CONFIG_NAME} names code that is not there: {', '.join(missing)}. Add it with --with-code.")


# Staging


@contextmanager
def _staged(output: Path) -> Iterator[Path]:
    """A new folder beside `output` that takes its name at the end, and vanishes after an error."""
    folder = output.with_name(f"{output.name}.{os.getpid()}.partial")
    folder.mkdir(parents=True)
    try:
        yield folder
        if output.exists():
            output.rmdir()
        folder.rename(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_small_files(checkpoint: Checkpoint, card: ModelCard, with_code: bool, folder: Path) -> None:
    card.save(folder / CARD_NAME)
    if with_code:
        write_code(checkpoint, folder)
    else:
        _check_code(checkpoint)


def export_checkpoint(
    folder: Path, output: Path | None, request: CardRequest, *, with_code: bool, repo_id: str | None = None
) -> list[str]:
    """Adds card and, if asked, code to a checkpoint, in its folder or in a copy.

    In its folder, new files take their places one by one, config.json last: an interruption leaves a checkpoint that
    loads as before. A copy appears when it is complete.

    Args:
        folder: a complete checkpoint; the card may be missing.
        output: folder of the copy, which must not exist or be empty; None to change `folder` itself.
        request: the card.
        with_code: whether to add the code.
        repo_id: the name that the card's commands use; by default that of the folder.

    Returns:
        Metadata that the card must be given before it can be pushed.

    Raises:
        ValueError: if the checkpoint is not complete, `output` is in use or the card can't be made.
        OSError: if a file can't be written, or the disk is too small for the copy.
    """
    folder = folder.resolve()
    checkpoint = read_checkpoint(folder)
    target = folder if output is None else output.resolve()
    card = build_card(folder, request, repo_id=repo_id or target.name, with_code=with_code or checkpoint.has_code)
    if target == folder:
        with tempfile.TemporaryDirectory(dir=folder, suffix=".partial") as partial:
            _write_small_files(checkpoint, card, with_code, Path(partial))
            written = {path.name for path in Path(partial).iterdir()}
            for name in (*sorted(written - {CONFIG_NAME}), *(written & {CONFIG_NAME})):
                os.replace(Path(partial) / name, folder / name)
        return missing_metadata(card)

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder; choose another name or remove it.")
    _check_space(target.parent, checkpoint.num_bytes)
    with _staged(target) as staged:
        for name, path in (checkpoint.files | checkpoint.weights).items():
            (staged / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, staged / name)
        _write_small_files(checkpoint, card, with_code, staged)
    return missing_metadata(card)


def _check_space(folder: Path, needed: int) -> None:
    while not folder.exists():
        folder = folder.parent
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(f"{describe_bytes(needed)} are needed in {folder}, but only {describe_bytes(free)} are free.")


def reshard(checkpoint: Checkpoint, folder: Path, max_shard_size: str) -> dict[str, Path]:
    """Writes the weights into `folder` again, in files of at most `max_shard_size` ("5GB").

    One file is in memory at a time. The same weights and size give the same files, byte by byte, so that an
    interrupted push finds them again.

    Returns:
        The new files, as in [`Checkpoint`].
    """
    sources = {name: path for name, path in checkpoint.weights.items() if name.endswith(".safetensors")}
    _check_space(folder, sum(path.stat().st_size for path in sources.values()))
    skeleton, places = {}, {}
    for path in sources.values():
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                skeleton[name] = _on_meta(file, name)
                places[name] = path
    split = split_torch_state_dict_into_shards(skeleton, max_shard_size=max_shard_size)
    written = {}
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        written[SAFE_WEIGHTS_INDEX_NAME] = folder / SAFE_WEIGHTS_INDEX_NAME
        written[SAFE_WEIGHTS_INDEX_NAME].write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    for filename, names in split.filename_to_tensors.items():
        shard = {}
        for name in names:
            with safe_open(places[name], "pt") as file:
                shard[name] = file.get_tensor(name)
        written[filename] = folder / filename
        save_file(shard, written[filename], metadata={"format": "pt"})
    return written


def _on_meta(file: Any, name: str) -> torch.Tensor:
    """A tensor of a safetensors file without its numbers."""
    view = file.get_slice(name)
    empty = file.get_tensor(name) if not view.get_shape() else view[:0]  # a scalar has nothing to slice
    return torch.empty(view.get_shape(), dtype=empty.dtype, device="meta")


# Push


class PushError(OSError):
    """A push that could not be finished; says what had been uploaded and how to go on."""


def push_checkpoint(
    folder: Path,
    repo_id: str,
    request: CardRequest,
    *,
    private: bool = False,
    with_code: bool = False,
    max_shard_size: str | None = None,
    dry_run: bool = False,
    report: Callable[[str], None] = print,
) -> str | None:
    """Uploads a checkpoint to the Hub, as safetensors and with a card.

    The weights go up file by file; one commit at the end makes everything visible at once and removes weight files of
    an earlier push that are no longer part of the checkpoint. What is uploaded stays with the Hub: when the same push
    is started again after an interruption, it is not sent again.

    Args:
        folder: a complete checkpoint; it is read only.
        repo_id: org/name; made where it does not exist.
        request: the card.
        private: whether a new repository is private.
        with_code: whether to add the code.
        max_shard_size: cut the weights into files of at most this size ("5GB") first; by default they stay as they
            are.
        dry_run: whether to check everything and say what would be uploaded, without the network.
        report: takes the lines that say what happens.

    Returns:
        The URL of the commit, or None after a dry run.

    Raises:
        ValueError: if the checkpoint or its card is not complete; nothing has been sent then.
        PushError: if the Hub refuses or can't be reached.
    """
    if "/" not in repo_id:
        raise ValueError(f"{repo_id!r} is no name of a repository; give your name or organisation too, like org/name.")
    validate_repo_id(repo_id)
    folder = folder.resolve()
    checkpoint = read_checkpoint(folder)
    card = build_card(folder, request, repo_id=repo_id, with_code=with_code or checkpoint.has_code)
    check_card(card)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.", suffix=".partial") as temporary:
        staged, shards = Path(temporary) / "small", Path(temporary) / "weights"
        staged.mkdir()
        shards.mkdir()
        _write_small_files(checkpoint, card, with_code, staged)
        small = checkpoint.files | {path.name: path for path in staged.iterdir()}
        weights = reshard(checkpoint, shards, max_shard_size) if max_shard_size else checkpoint.weights
        for name, path in sorted((small | weights).items()):
            report(f"{path.stat().st_size:>14,}  {name}")
        if checkpoint.left_out:
            report(f"Not published: {', '.join(checkpoint.left_out)}")
        if dry_run:
            return None
        return _upload(repo_id, small, weights, card, private)


def _upload(repo_id: str, small: dict[str, Path], weights: dict[str, Path], card: ModelCard, private: bool) -> str:
    api = HfApi()
    additions = {name: CommitOperationAdd(name, path) for name, path in (small | weights).items()}
    shards = [name for name in sorted(weights) if name.endswith(".safetensors")]
    uploaded: list[str] = []
    step = f"Creating {repo_id}"
    try:
        if private and api.repo_exists(repo_id) and not api.repo_info(repo_id).private:
            raise ValueError(f"{repo_id} exists and is public; make it private on the Hub, or choose a new name.")
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        _validate(card)
        for name in shards:
            step = f"Uploading {name}"
            api.preupload_lfs_files(repo_id, [additions[name]], free_memory=False)
            uploaded.append(name)
        step = "The commit"
        stale = [
            CommitOperationDelete(name)
            for name in api.list_repo_files(repo_id)
            if name not in additions and fnmatch.fnmatch(name, "model*.safetensors*")
        ]
        commit = api.create_commit(repo_id, [*additions.values(), *stale], commit_message="Upload LLaVA-UHD v2")
        return commit.commit_url
    except Exception as error:  # those of the HTTP and the storage client have no base class in common
        if isinstance(error, ValueError) and not isinstance(error, HfHubHTTPError):
            raise
        reason = _explain(error, repo_id)
    gc.collect()  # the client's error, which keeps its progress bar open
    done = f"{', '.join(uploaded) or 'nothing'} ({len(uploaded)} of {len(shards)} weight files)"
    raise PushError(
        f"{step} failed: {reason} Uploaded so far: {done}, not visible before the commit at the end. Run the same "
        "command again to continue: what is uploaded is not sent again."
    )


def _validate(card: ModelCard) -> None:
    """Has the Hub check the metadata before the weights go up; the commit at the end has it checked again.

    Raises:
        ValueError: if the Hub refuses them.
    """
    try:
        card.validate()
    except ValueError:
        raise
    except Exception as error:  # older versions of huggingface_hub ask huggingface.co whatever HF_ENDPOINT says
        logger.warning("The Hub could not check the model card beforehand: %s", error)


def _explain(error: BaseException, repo_id: str) -> str:
    """One sentence on what went wrong, and what to do about it."""
    while error.__cause__ is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
        return f"401, {'the token is not valid' if get_token() else 'there is no token'}; log in with `hf auth login`."
    if isinstance(error, HfHubHTTPError) and error.response.status_code == 403:
        said = f" The Hub says: {error.server_message}." if error.server_message else ""
        return f"403, your token may not write to {repo_id}; take one that may, or choose another name.{said}"
    return f"{reason.rstrip('.')}."


__all__ = ["AUTO_MAP", "Checkpoint", "PushError", "export_checkpoint", "push_checkpoint", "read_checkpoint"]
