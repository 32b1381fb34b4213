# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The curves of a training as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ..pictures.canvas import (
    save_picture,
)


CURVES_NAME = "losses.png"


def save_curves(log_history: Sequence[dict[str, float]], names: Sequence[str], path: Path) -> None:
    """Draws logged values over the steps, side by side.

    Args:
        log_history: of `TrainerState`.
        names: of the values.
        path: of the picture.
    """
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        points = [(entry["step"], entry[name]) for entry in log_history if name in entry]
        axes.plot(*zip(*points) if points else ([], []), linewidth=1)
        axes.set(title=name, xlabel="step")
        axes.grid(alpha=0.3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_picture(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), path)


__all__ = ["CURVES_NAME", "save_curves"]
