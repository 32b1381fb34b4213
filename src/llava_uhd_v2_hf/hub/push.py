# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Uploading a checkpoint to the Hub."""

import fnmatch
import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from ..utils.atomic import temporary_folder
from .card import CardRequest, build_card, check_card
from .checkpoint_folder import CODE_FILES, read_checkpoint
from .export import describe_linked, published_files
from .reshard import reshard


logger = logging.get_logger(__name__)

REPLACED = ("model*.safetensors*", CODE_FILES)  # those of an earlier push are removed


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
    include: Sequence[str] = (),
    ask: Callable[[str], bool] | None = None,
    dry_run: bool = False,
    report: Callable[[str], None] = print,
) -> str | None:
    """Uploads a checkpoint to the Hub, as safetensors and with a card.

    The weights go up file by file; one commit at the end makes everything visible at once and removes weights and
    code of an earlier push that are no longer part of the checkpoint. What is uploaded stays with the Hub: when the
    same push is started again after an interruption, it is not sent again.

    Args:
        folder: a complete checkpoint; it is read only.
        repo_id: org/name; made where it does not exist.
        request: the card.
        private: whether a new repository is private.
        with_code: whether to add the code.
        max_shard_size: cut the weights into files of at most this size ("5GB") first, in a temporary folder beside
            `folder`; by default they stay as they are.
        include: names of files in `folder` to upload beside those of a checkpoint.
        ask: answers whether to upload a file that the card links to, by its name; by default, and in a dry run, only
            pictures are.
        dry_run: whether to check everything and say what would be uploaded, without the network.
        report: takes the lines that say what happens.

    Returns:
        The URL of the commit, or None after a dry run.

    Raises:
        ValueError: if the checkpoint, its card or its code is not complete; nothing has been sent then.
        OSError: if the disk is too small for the temporary files.
        PushError: if the Hub refuses or can't be reached.
    """
    if "/" not in repo_id:
        raise ValueError(f"{repo_id!r} is no name of a repository; give your name or organisation too, like org/name.")
    validate_repo_id(repo_id)
    folder = folder.resolve()
    checkpoint = read_checkpoint(folder, include)
    card = build_card(folder, request, repo_id=repo_id, with_code=with_code or checkpoint.has_code)
    check_card(card)
    if ask is not None and not dry_run and (confirmed := [name for name in checkpoint.linked if ask(name)]):
        checkpoint = read_checkpoint(folder, [*include, *confirmed])
    files = published_files(checkpoint, card, with_code=with_code)
    with ExitStack() as stack:
        weights = checkpoint.weights
        if max_shard_size:
            weights = reshard(checkpoint, stack.enter_context(temporary_folder(folder)), max_shard_size)
        files |= weights
        for name, content in sorted(files.items()):
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            report(f"{size:>14,}  {name}")
        if checkpoint.left_out:
            report(f"Not published: {', '.join(checkpoint.left_out)}")
        if checkpoint.linked:
            report(describe_linked(checkpoint))
        if dry_run:
            return None
        return _upload(repo_id, files, sorted(weights), card, private)


def _upload(
    repo_id: str, files: Mapping[str, Path | bytes], weights: Sequence[str], card: ModelCard, private: bool
) -> str:
    api = HfApi()
    additions = {name: CommitOperationAdd(name, content) for name, content in files.items()}
    shards = [name for name in weights if name.endswith(".safetensors")]
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
            if name not in additions and any(fnmatch.fnmatch(name, pattern) for pattern in REPLACED)
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
    """Returns one sentence on what went wrong, and what to do about it."""
    while error.__cause__ is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
        return f"401, {'the token is not valid' if get_token() else 'there is no token'}; log in with `hf auth login`."
    if isinstance(error, HfHubHTTPError) and error.response.status_code == 403:
        said = f" The Hub says: {error.server_message}." if error.server_message else ""
        return f"403, your token may not write to {repo_id}; take one that may, or choose another name.{said}"
    return f"{reason.rstrip('.')}."


__all__ = ["PushError", "push_checkpoint"]
