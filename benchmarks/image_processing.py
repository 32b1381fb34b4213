# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Images a second of our image processor, against transformers' of LLaVA-NeXT and MiniCPM-V 4.6 (the PIL ones).

    python benchmarks/image_processing.py [--repeats 5] [--images 10] [--json FILE]

Each does what its released models do with the same image: LLaVA-NeXT as set up for CLIP-ViT-L/14-336, MiniCPM-V and
ours by default. All three have patches of 14x14 pixels, so the table says how many each makes of an image. Images
are decoded before: photographs of scikit-image, resized.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import side_by_side
import typer
from PIL import Image
from skimage import data
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

from llava_uhd_v2_hf import LlavaUhdV2ImageProcessor


# (height, width) and the photograph: one view, the size of the paper's FLOPs, a camera's upright, a panorama
IMAGES = {
    (336, 336): data.astronaut,
    (672, 1008): data.coffee,
    (1600, 1200): data.astronaut,
    (640, 3000): data.rocket,
}
SMALLEST = (336, 336)
NUMBERS_PER_PATCH = 3 * 14 * 14
OURS = "llava_uhd_v2"


def build_processors() -> dict[str, Any]:
    """Ours and its peers, by the name of their model."""
    return {
        OURS: LlavaUhdV2ImageProcessor(),
        "llava_next": LlavaNextImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        "minicpmv4_6": MiniCPMV4_6ImageProcessorPil(),
    }


def load_image(size: tuple[int, int]) -> Image.Image:
    height, width = size
    return Image.fromarray(IMAGES[size]()).resize((width, height), Image.Resampling.BICUBIC)


def process(processor: Callable, image: Image.Image, times: int) -> None:
    for _ in range(times):
        processor(image, return_tensors="pt")


def measure(size: tuple[int, int], repeats: int, times: int) -> dict[str, Any]:
    """Times the processors on one image.

    Args:
        size: (height, width), one of `IMAGES`.
        repeats: timed runs of each processor.
        times: how often a run processes the image.

    Returns:
        Under each processor's name its patches, images a second and, of the peers, ours over theirs.
    """
    image, processors = load_image(size), build_processors()
    sides = {name: partial(process, processor, image, times) for name, processor in processors.items()}
    seconds = side_by_side.alternate(sides, repeats)
    result: dict[str, Any] = {"height": size[0], "width": size[1]}
    for name, processor in processors.items():
        patches = processor(image, return_tensors="pt")["pixel_values"].numel() // NUMBERS_PER_PATCH
        result[name] = {
            "patches": patches,
            "images_per_second": side_by_side.spread([times / s for s in seconds[name]]),
        }
        if name != OURS:
            result[name]["ours_over_it"] = side_by_side.ratios(seconds[name], seconds[OURS])
    return result


def rows_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A measured image as rows of the table, one a processor."""
    return [
        {
            "image": f"{result['height']}x{result['width']}",
            "processor": name,
            "patches": result[name]["patches"],
            "images a second": result[name]["images_per_second"],
            "ours over it": result[name].get("ours_over_it", ""),
        }
        for name in build_processors()
    ]


def main(
    repeats: Annotated[int, typer.Option(help="Timed runs of each processor.")] = 5,
    images: Annotated[int, typer.Option(help="How often a run processes an image.")] = 10,
    smallest: Annotated[bool, typer.Option(help="Only the smallest image.")] = False,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.")] = None,
) -> None:
    """Images a second of our image processor, against those of LLaVA-NeXT and MiniCPM-V."""
    results = [measure(size, repeats, images) for size in ([SMALLEST] if smallest else IMAGES)]
    side_by_side.print_table([row for result in results for row in rows_of(result)])
    if json is not None:
        side_by_side.write_json(json, {"machine": side_by_side.describe_machine(), "images": results})


if __name__ == "__main__":
    typer.run(main)
