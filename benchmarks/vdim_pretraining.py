# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What VDIM pre-training gains over bilinear up-sampling, at a size that a CPU can train.

    pip install '.[train]' scikit-image scikit-learn
    python benchmarks/vdim_pretraining.py --json vdim.json --pictures docs/images

A small tower (trained for a minute to fill in masked patches; no pre-trained weights are needed) sees crops of
photographs and rendered pages. VDIM is trained by the released recipe at 112x112 pixels. Bilinear up-sampling has no
weights; its learned down-sampler is trained by the same recipe for as many steps. Errors are measured on photographs
and pages that were not trained on: squared distance to the tower's features over their variance, of the same view of
the image and of jittered views (enlarged, shifted, mirrored), which the tower sees anew.
"""

import json
import random
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import skimage.data
import sklearn.datasets
import torch
import torch.nn.functional as F
import typer
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, set_seed
from transformers.utils import logging

from llava_uhd_v2_hf.data.normalisation import NORMALISATIONS
from llava_uhd_v2_hf.pictures.canvas import (
    save_picture,
)
from llava_uhd_v2_hf.pictures.feature_maps import draw_rows, pyramid_row
from llava_uhd_v2_hf.training.recipes import read_recipe
from llava_uhd_v2_hf.training.stage import read_stage
from llava_uhd_v2_hf.training.stages.vdim.draws import draw_jitter
from llava_uhd_v2_hf.training.stages.vdim.images import read_square
from llava_uhd_v2_hf.training.stages.vdim.losses import VdimObjective, jittered_views
from llava_uhd_v2_hf.training.stages.vdim.model import VdimPretraining
from llava_uhd_v2_hf.training.stages.vdim.pictures import save_losses
from llava_uhd_v2_hf.training.stages.vdim.recipe import VdimRecipe
from llava_uhd_v2_hf.training.stages.vdim.run import build_model, build_trainer, open_images, prepare_arguments


SIZE, PATCH = 112, 14
TRAINED = ("astronaut", "chelsea", "retina", "rocket", "hubble_deep_field", "immunohistochemistry", "flower.jpg")
HELD_OUT = ("coffee", "page", "china.jpg")
CROPS, PAGES = 40, 160  # crops of each photograph, pages
HELD_OUT_CROPS, HELD_OUT_PAGES = 16, 32
WORDS = "level window query slice patch token image total price 2024 1,295 37.5% No. Fig. table"
TOWER = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": SIZE,
    "patch_size": PATCH,
}
TOWER_STEPS, TOWER_BATCH = 600, 16


def photograph(name: str) -> Image.Image:
    pixels = sklearn.datasets.load_sample_image(name) if "." in name else getattr(skimage.data, name)()
    return Image.fromarray(pixels).convert("RGB")


def page(source: random.Random) -> Image.Image:
    """A square of a rendered page: words of one size, black on white or in colours."""
    size = source.choice((9, 11, 14, 18, 26))
    paper, ink = source.choice(
        (("white", "black"), ("#fdf6e3", "#073642"), ("#1f2328", "#e6e6e6"), ("white", "#b00020"))
    )
    image = Image.new("RGB", (SIZE, SIZE), paper)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=size)
    for top in range(source.randint(-size, 4), SIZE, round(1.4 * size)):
        line = " ".join(source.choices(WORDS.split(), k=8))
        draw.text((source.randint(-30, 6), top), line, fill=ink, font=font)
    return image


def write_images(folder: Path, photographs: tuple[str, ...], crops: int, pages: int, seed: int) -> None:
    folder.mkdir()
    source = random.Random(seed)
    for name in photographs:
        image = photograph(name)
        for index in range(crops):
            side = source.randint(SIZE, min(*image.size, 3 * SIZE))
            left, top = (source.randint(0, length - side) for length in image.size)
            crop = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
            crop.save(folder / f"{Path(name).stem}-{index:02d}.png")
    for index in range(pages):
        page(source).save(folder / f"rendered-{index:03d}.png")


def read_images(folder: Path, recipe: VdimRecipe) -> torch.Tensor:
    return torch.stack([read_square(str(path), recipe.data) for path in sorted(folder.glob("*.png"))])


def train_tower(folder: Path, images: torch.Tensor) -> None:
    """Trains a tower to fill in the half of the patches that it does not see, and saves it."""
    set_seed(0)
    tower, head = CLIPVisionModel(CLIPVisionConfig(**TOWER)), nn.Linear(TOWER["hidden_size"], 3 * PATCH**2)
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], 1e-3)
    for _ in range(TOWER_STEPS):
        batch = images[torch.randint(len(images), (TOWER_BATCH,))]
        seen = (torch.rand(TOWER_BATCH, 1, SIZE // PATCH, SIZE // PATCH) < 0.5).float()
        states = tower(batch * F.interpolate(seen, size=SIZE)).last_hidden_state[:, 1:]
        loss = F.mse_loss(head(states), F.unfold(batch, PATCH, stride=PATCH).transpose(1, 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"tower: {TOWER_STEPS} steps, loss {loss.item():.3f}")
    tower.save_pretrained(folder)


class BilinearObjective(VdimObjective):
    """The objective with bilinear up-sampling: what is trained beside it stays."""

    def pyramid(self, features: torch.Tensor, pixels: torch.Tensor) -> dict[int, torch.Tensor]:
        return {
            level: F.interpolate(features, scale_factor=2.0**level, mode="bilinear", align_corners=False)
            for level in self.levels
        }


def train(recipe: VdimRecipe, side: str) -> tuple[VdimPretraining, list[dict[str, float]]]:
    """The model and the log of one side; "new" is VDIM as it begins."""
    args = prepare_arguments(recipe)
    set_seed(args.seed)
    model = build_model(recipe)
    if side == "new":
        return model.eval(), []
    if side == "bilinear":
        model.objective.__class__ = BilinearObjective
        model.objective.upsampler.requires_grad_(False)
    _, dataset = open_images(recipe, args, None)
    trainer = build_trainer(model, recipe, args, dataset)
    trainer.train()
    return model.eval(), trainer.state.log_history


@torch.no_grad()
def errors(model: VdimPretraining, images: torch.Tensor, recipe: VdimRecipe) -> dict[str, float]:
    """Relative errors by "down-sampler/view/level"; the jittered views are the same for every model."""
    objective, total, variance = model.objective, {}, {}
    features = model.features(images)
    for view in ("same", "jittered"):
        index = 0 if view == "same" else 1
        seeds = range(len(images))
        draws = draw_jitter(seeds, index, recipe.loss, channels=1, levels=(), grid=1, size=SIZE)
        pad = recipe.loss.max_pad
        seen = images if view == "same" else jittered_views(images, draws.jitters, SIZE, pad)
        target = model.features(seen)
        variance[view] = (target - target.mean(dim=(0, 2, 3), keepdim=True)).square().sum()
        for level, maps in objective.pyramid(features, images).items():
            if view == "same":
                full = F.interpolate(maps, size=SIZE, mode="bilinear", align_corners=False)
            else:
                full = jittered_views(maps, draws.jitters, SIZE, pad)
            sides = {"fixed mean": F.avg_pool2d(full, PATCH), "own": objective.downsamplers[str(level)](full)}
            for name, reconstructed in sides.items():
                error = (reconstructed - target).square().sum() / variance[view]
                total[f"{name}/{view}/{2**level}x"] = float(error)
    return total


def describe(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    print("| down-sampler | view | level | bilinear | new VDIM | trained VDIM | trained / bilinear |")
    print("|---|---|---|---|---|---|---|")
    for key in results["vdim"][0]:
        sides = {side: [run[key] for run in runs] for side, runs in results.items()}
        shown = {side: describe(values) for side, values in sides.items()}
        ratio = statistics.mean(sides["vdim"]) / statistics.mean(sides["bilinear"])
        print(f"| {' | '.join(key.split('/'))} | {' | '.join(shown.values())} | {ratio:.2f} |")


def draw(folder: Path, model: VdimPretraining, log: list[dict[str, float]], images: torch.Tensor) -> None:
    mean, std = NORMALISATIONS["imagenet"]
    rows = []
    for pixels in images[:, None]:
        rows.append(pyramid_row(model.objective.upsampler, model.features(pixels), pixels, mean, std))
    save_picture(draw_rows(rows), folder / "vdim_pyramid.png")
    save_losses(log, folder / "vdim_losses.png")


def main(
    steps: Annotated[int, typer.Option(help="Of each training.")] = 300,
    seeds: Annotated[int, typer.Option(help="Trainings of each side.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 4,
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers there.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for pictures of the first seed.")] = None,
) -> None:
    """Trains both sides, measures them on held-out images, prints a table."""
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    results: dict[str, list[dict[str, float]]] = {"bilinear": [], "new": [], "vdim": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "train", TRAINED, CROPS, PAGES, seed=0)
        write_images(folder / "held_out", HELD_OUT, HELD_OUT_CROPS, HELD_OUT_PAGES, seed=1)
        overrides = [
            f"tower={folder / 'tower'}",
            f"batch_size={batch_size}",
            f"data.images={folder / 'train'}",
            f"data.crop_size={SIZE}",
            "loss.max_pad=10",  # of 112 pixels, as 30 of 336
            "loss.crf_points=300",
            f"training.per_device_train_batch_size={batch_size}",
            f"training.max_steps={steps}",
            f"training.output_dir={folder / 'run'}",
            "training.dataloader_num_workers=0",
            "training.save_strategy=no",
            "training.report_to=none",
            "training.disable_tqdm=true",
            "training.logging_steps=5",
        ]
        (folder / "run").mkdir()  # for its list of skipped images
        for seed in range(seeds):
            for side in results:
                settings = [*overrides, f"training.seed={seed}"]
                recipe = read_recipe(VdimRecipe, "vdim-clip-l-336-released", settings, stage=read_stage("vdim"))
                if not (folder / "tower").exists():
                    train_tower(folder / "tower", read_images(folder / "train", recipe))
                model, log = train(recipe, side)
                held_out = read_images(folder / "held_out", recipe)
                results[side].append(errors(model, held_out, recipe))
                print(f"seed {seed}, {side}: {results[side][-1]}", flush=True)
                if pictures is not None and seed == 0 and side == "vdim":
                    # a crop of each held-out photograph, and a page
                    draw(pictures, model, log, held_out[[0, HELD_OUT_CROPS + 1, 2 * HELD_OUT_CROPS + 2, -1]])
    print_table(results)
    if json_file is not None:
        settings = {"steps": steps, "seeds": seeds, "batch_size": batch_size, "threads": threads}
        unfinished = json_file.with_name(f".{json_file.name}")
        unfinished.write_text(json.dumps({"settings": settings, "results": results}, indent=2) + "\n")
        unfinished.replace(json_file)


if __name__ == "__main__":
    typer.run(main)
