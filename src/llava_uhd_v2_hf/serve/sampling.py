# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Greedy and sampled answers in one batch: every row has its own temperature and random numbers."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper


GREEDY_BELOW = 1e-4  # a temperature that leaves nothing to chance, and would overflow


class Sampler:
    """Draws the tokens of one answer, with random numbers of the CPU so that a seed gives the same on any device.

    Args:
        temperature: what the logits are divided by, at least `GREEDY_BELOW`.
        top_p: share of the probability that the tokens have from which is drawn.
        seed: of the random numbers; None for any.
    """

    def __init__(self, temperature: float, top_p: float, seed: int | None):
        self.warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature), TopPLogitsWarper(top_p)])
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    def draw(self, logits: torch.Tensor) -> int:
        """A token of the distribution that the logits, (vocabulary,), make."""
        scores = self.warpers(None, logits[None].float().cpu())
        return int(torch.multinomial(scores.softmax(-1)[0], 1, generator=self.generator))


def make_sampler(temperature: float | None, top_p: float | None, seed: int | None) -> Sampler | None:
    """The sampler of a request; None if its answer is greedy, as it is without `temperature` and `top_p`.

    Args:
        temperature: of the request; 1 where only `top_p` is given.
        top_p: likewise; 1 if it is None.
        seed: likewise.
    """
    if temperature is None:
        temperature = 0.0 if top_p is None else 1.0
    if temperature < GREEDY_BELOW:
        return None
    return Sampler(temperature, 1.0 if top_p is None else top_p, seed)


class DrawnTokens(LogitsProcessor):
    """Leaves a sampled row the one token that was drawn, so that the most likely of every row is the right one.

    Args:
        samplers: one a row; None for a greedy one.
    """

    def __init__(self, samplers: Sequence[Sampler | None]):
        self.samplers = samplers

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input_ids: (b, n), prompts and answers so far.
            scores: (b, vocabulary), the logits.

        Returns:
            (b, vocabulary).
        """
        scores = scores.clone()
        for row, sampler in zip(scores, self.samplers, strict=True):
            if sampler is not None:
                token = sampler.draw(row)
                row.fill_(-torch.inf)
                row[token] = 0
        return scores


__all__ = ["DrawnTokens", "Sampler", "make_sampler"]
