# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Tokens -> text as they come: whole characters, and nothing of a stop string or after it."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase


class AnswerText:
    """The text of one answer. The pieces that it gives out are together the answer.

    Args:
        tokenizer: decodes; not used by another thread.
        stop: strings that end the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()):
        self.tokenizer = tokenizer
        self.stop = stop
        self.stopped = False
        self._special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._ids: list[int] = []  # the last ones that were given out as text, then those that were not
        self._decoded = 0  # how many of them were
        self._held = ""  # text that may be the beginning of a stop string

    def push(self, token: int) -> str:
        """What the text is longer by with one more token; `stopped` says whether a stop string was found."""
        if token in self._special:
            return ""
        self._ids.append(token)
        before, text = self._decode(self._ids[: self._decoded]), self._decode(self._ids)
        if len(text) <= len(before) or text.endswith("\N{REPLACEMENT CHARACTER}"):  # of a part of a character
            return ""
        self._ids, self._decoded = self._ids[self._decoded :], len(self._ids) - self._decoded
        return self._release(text[len(before) :])

    def finish(self) -> str:
        """The rest of the text, when no token follows."""
        text = self._decode(self._ids)[len(self._decode(self._ids[: self._decoded])) :]
        piece = self._release(text)
        if not self.stopped:
            piece, self._held = piece + self._held, ""
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _release(self, text: str) -> str:
        text = self._held + text
        found = [place for place in map(text.find, self.stop) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held_back = max((_overlap(text, stop) for stop in self.stop), default=0)
        self._held = text[len(text) - held_back :]
        return text[: len(text) - held_back]


def _overlap(text: str, stop: str) -> int:
    """How long the longest end of `text` is with which `stop` begins."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


__all__ = ["AnswerText"]
