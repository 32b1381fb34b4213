# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Draws the losses of a training's stages one after the other, over the pages seen.

    python examples/nano/curves.py LOG OUT

Every line of LOG is a JSON object with `stage`, `pages` (of the stage) and `loss`.
"""

import itertools
import json
import sys
from pathlib import Path

from matplotlib.figure import Figure


def draw_curves(log: Path, out: Path) -> None:
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes, before = figure.subplots(), 0
    for stage, group in itertools.groupby(entries, key=lambda entry: entry["stage"]):
        points = [(before + entry["pages"], entry["loss"]) for entry in group]
        axes.plot(*zip(*points), linewidth=1.2, label=stage)
        before = points[-1][0]
    axes.set(xlabel="pages", ylabel="loss a token of the answers")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    draw_curves(Path(sys.argv[1]), Path(sys.argv[2]))
