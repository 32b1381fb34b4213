# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that a conversion reads: local folders, and Hub repositories downloaded file group by file group.

config.json comes first and alone, so that a repository of another model is refused before its weights are downloaded.
Everything goes to the cache of huggingface_hub, which continues an interrupted download. No code is downloaded.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from transformers.utils import CONFIG_NAME

from ..utils.hub_ids import find_folder
from .output_folder import SMALL_FILES


SMALL_PATTERNS = [f"*{suffix}" for suffix in SMALL_FILES]
WEIGHT_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")  # the second where a repository has none of the first
SUBFOLDERS = "*/*"
GGUF_SUFFIX = ".gguf"


@dataclass(frozen=True)
class Source:
    """A checkpoint to read; [`open_source`] makes it.

    Args:
        name: folder or Hub id, as the user gave it.
        folder: the local folder, or the repository's snapshot in the cache of huggingface_hub.
        revision: commit hash of the repository; None for a local folder.
        gguf_file: name of the file in `folder` that is the whole checkpoint; None where it has a config.json.
    """

    name: str
    folder: Path
    revision: str | None = None
    gguf_file: str | None = None

    def fetch_small_files(self) -> None:
        """Downloads configuration and tokenizer files; does nothing for a local folder.

        Raises:
            OSError: if the Hub can't be reached or refuses.
        """
        self._fetch(SMALL_PATTERNS)

    def fetch_weights(self) -> None:
        """Downloads safetensors files, or .bin files where there are none; does nothing for a local folder.

        Raises:
            OSError: if the Hub can't be reached or refuses.
        """
        for pattern in WEIGHT_PATTERNS:
            self._fetch([*SMALL_PATTERNS, pattern])
            if any(self.folder.glob(pattern)):
                return

    def _fetch(self, patterns: list[str]) -> None:
        if self.revision is not None:
            with _download_errors(self.name):
                snapshot_download(
                    self.name, revision=self.revision, allow_patterns=patterns, ignore_patterns=[SUBFOLDERS]
                )


def open_source(name: str | Path) -> Source:
    """Finds a checkpoint's folder, or downloads the config.json of its Hub repository.

    Args:
        name: a folder or a Hub id, or a GGUF file; what exists wins over a Hub id.

    Raises:
        OSError: if the Hub has no such repository, it has no config.json, or the Hub can't be reached.
        ValueError: if the name is neither that of a folder nor a Hub id, or a folder has several GGUF files and
            nothing else.
    """
    if (path := Path(name)).suffix == GGUF_SUFFIX and path.is_file():
        return Source(str(name), path.resolve().parent, gguf_file=path.name)
    folder = find_folder(str(name))
    if folder is not None:
        return Source(str(name), folder.resolve(), gguf_file=_gguf_file(folder))
    with _download_errors(str(name)):
        snapshot = Path(hf_hub_download(str(name), CONFIG_NAME)).parent
    return Source(str(name), snapshot, revision=snapshot.name)


def _gguf_file(folder: Path) -> str | None:
    """Returns the name of the GGUF file of a folder without config.json."""
    names = sorted(path.name for path in folder.glob(f"*{GGUF_SUFFIX}"))
    if not names or (folder / CONFIG_NAME).is_file():
        return None
    if len(names) > 1:
        raise ValueError(f"{folder} has several GGUF files, {', '.join(names)}; give the path of one of them.")
    return names[0]


def repositories(sources: Mapping[str, Source]) -> dict[str, str]:
    """Returns `"org/name@commit"` of the sources that are Hub repositories, by the same keys."""
    return {key: f"{source.name}@{source.revision}" for key, source in sources.items() if source.revision}


@contextmanager
def _download_errors(repo_id: str) -> Iterator[None]:
    """Turns any error of a download into an OSError with one line that says what to do."""
    try:
        yield
    except Exception as error:  # those of the HTTP and the storage client have no base class in common
        raise OSError(_explain(error, repo_id)) from error


def _explain(error: BaseException, repo_id: str) -> str:
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated: accept its terms on the Hub and log in with `hf auth login`."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"There is no folder {repo_id}, and the Hub has no such model or it is private: check the name, or log in "
            "with `hf auth login`."
        )
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return f"Expected a checkpoint in the Hub's {repo_id}, but it has no {CONFIG_NAME}; check the name."
    while error.__cause__ is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return (
        f"There is no folder {repo_id}, and it can't be downloaded from the Hub: {reason}. Check the connection and "
        "run the same command again; it continues."
    )


__all__ = ["Source", "open_source", "repositories"]
