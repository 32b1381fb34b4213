# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Adding card and code to a checkpoint, in its folder or in a copy."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCard
from transformers.utils import CONFIG_NAME

from ..utils.atomic import PARTIAL, atomic_folder, check_free_space, prepare_folder, replaced_files
from ..utils.errors import file_errors
from .card import CardRequest, build_card, missing_metadata
from .checkpoint_folder import CARD_NAME, Checkpoint, read_checkpoint
from .code import check_code, code_files


def export_checkpoint(
    folder: Path,
    output: Path | None,
    request: CardRequest,
    *,
    with_code: bool,
    repo_id: str | None = None,
    include: Sequence[str] = (),
) -> list[str]:
    """Adds card and, if asked, code to a checkpoint, in its folder or in a copy.

    In its folder, new files take their places one by one, config.json last: an interruption leaves a checkpoint that
    loads as before. A copy appears when it is complete.

    Args:
        folder: a complete checkpoint; the card may be missing.
        output: folder of the copy, which must not exist or be empty; None to change `folder` itself.
        request: the card.
        with_code: whether to add the code, see [`code_files`].
        repo_id: the name that the card's commands use; by default that of the folder.
        include: names of files in `folder` to copy beside those of a checkpoint.

    Returns:
        What to do before a push, a sentence each.

    Raises:
        ValueError: if the checkpoint is not complete, `output` is in use, or card or code can't be made.
        OSError: if a file can't be written, or the disk is too small for the copy.
    """
    folder = folder.resolve()
    checkpoint = read_checkpoint(folder, include)
    target = folder if output is None else output.resolve()
    card = build_card(folder, request, repo_id=repo_id or target.name, with_code=with_code or checkpoint.has_code)
    files = published_files(checkpoint, card, with_code=with_code)
    if target == folder:
        with replaced_files(folder, CONFIG_NAME, keep_key_file=True) as staged:
            _write_files({name: content for name, content in files.items() if isinstance(content, bytes)}, staged)
        for name in checkpoint.files.keys() - files.keys():  # code of an earlier export
            (folder / name).unlink()
    else:
        prepare_folder(target)
        check_free_space(target, checkpoint.num_bytes)
        files |= checkpoint.weights
        with atomic_folder(target, CONFIG_NAME) as staged:
            _write_files({name + PARTIAL if name == CONFIG_NAME else name: files[name] for name in files}, staged)
    missing = missing_metadata(card)
    hints = [f"Before a push, {CARD_NAME} needs: {', '.join(missing)}"] if missing else []
    return [*hints, describe_linked(checkpoint)] if checkpoint.linked else hints


def describe_linked(checkpoint: Checkpoint) -> str:
    """Says which files the card links to and are not published, and what publishes them."""
    names = checkpoint.linked
    options = " ".join(f"--include {shlex.quote(name)}" for name in names)
    return f"{CARD_NAME} links to {', '.join(names)}, which a push leaves out; to publish them, add {options}"


def published_files(checkpoint: Checkpoint, card: ModelCard, *, with_code: bool) -> dict[str, Path | bytes]:
    """Returns the files of a checkpoint but its weights, as they are published: name -> path, or new content.

    Args:
        checkpoint: a complete one.
        card: its card.
        with_code: whether to add the code, in place of what the checkpoint has; see [`code_files`].

    Raises:
        ValueError: if the code can't be made, or config.json names code that is not there.
    """
    files: dict[str, Path | bytes] = {**checkpoint.files}
    with file_errors(checkpoint.files[CONFIG_NAME], "can't be published"):
        if with_code:
            files = {name: files[name] for name in files if name not in checkpoint.code}
            files.update(code_files(checkpoint))
        else:
            check_code(checkpoint)
    files[CARD_NAME] = str(card).encode()
    return files


def _write_files(files: Mapping[str, Path | bytes], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_bytes(content)


__all__ = ["describe_linked", "export_checkpoint", "published_files"]
