# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""VDIM pre-training as a whole, with a tiny tower: what it writes, what it survives, what it refuses."""

import importlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from typer.testing import CliRunner

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ForConditionalGeneration
from llava_uhd_v2_hf.cli.app import app
from llava_uhd_v2_hf.conversion.assemble import AssemblyOptions, assemble
from llava_uhd_v2_hf.inference.vdim_file import load_vdim, load_vdim_into
from llava_uhd_v2_hf.training.recipes import read_recipe
from llava_uhd_v2_hf.training.stage import read_stage
from llava_uhd_v2_hf.training.stages.vdim.draws import Jitter, draw_jitter
from llava_uhd_v2_hf.training.stages.vdim.images import VdimImages, VdimStream, open_source, open_stream, read_square
from llava_uhd_v2_hf.training.stages.vdim.losses import jittered_views
from llava_uhd_v2_hf.training.stages.vdim.model import VdimPretraining
from llava_uhd_v2_hf.training.stages.vdim.recipe import VdimData, VdimLoss, VdimRecipe
from llava_uhd_v2_hf.training.stages.vdim.run import build_model, train_vdim
from llava_uhd_v2_hf.training.stages.vdim.trainer import VdimTrainer
from tests.support.paths import GOLDEN, ROOT


SIZE = 56
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": 14,
}
COMMAND = [sys.executable, "-c", "from llava_uhd_v2_hf.cli.app import app; app()", "train", "vdim"]


def write_photographs(folder, count):
    folder.mkdir()
    source = np.random.default_rng(0)
    for index in range(count):
        coarse = source.integers(0, 256, (6, 7 + index % 3, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((90 + index, 80), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("images") / "photographs", 7)


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower") / "clip"
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**TOWER)).save_pretrained(folder)
    return folder


def settings(tower, images, output, *more):
    return [
        f"tower={tower}",
        "batch_size=4",
        f"data.images={images}",
        f"data.crop_size={SIZE}",
        "loss.max_pad=6",
        "loss.projection_size=8",
        "loss.crf_points=20",
        "pictures.count=1",
        "pictures.every=0",
        f"training.output_dir={output}",
        "training.max_steps=3",
        "training.per_device_train_batch_size=4",
        "training.logging_steps=1",
        "training.dataloader_num_workers=0",
        "training.report_to=none",
        "training.disable_tqdm=true",
        "training.use_cpu=true",
        *more,
    ]


def make_recipe(*arguments):
    return read_recipe(VdimRecipe, "vdim-clip-l-336-released", settings(*arguments), stage=read_stage("vdim"))


def logged_losses(output, step):
    history = json.loads((output / f"checkpoint-{step}/trainer_state.json").read_text())["log_history"]
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}


@pytest.fixture(scope="module")
def trained(tower, photographs, tmp_path_factory):
    """A training of six steps with pictures and TensorBoard; read it, don't write to it."""
    output = tmp_path_factory.mktemp("trained") / "vdim"
    more = ["training.max_steps=6", "pictures.every=4", "training.report_to=tensorboard"]
    assert train_vdim(make_recipe(tower, photographs, output, *more)) == output / "vdim.safetensors"
    return output


# What it writes


def test_everything_is_written(trained):
    pictures = {path.name for path in (trained / "pictures").iterdir()}
    assert pictures == {"losses.png", "pyramid-000004.png", "pyramid-000006.png"}
    logged = json.loads((trained / "checkpoint-6/trainer_state.json").read_text())["log_history"]
    assert {"loss", "rec_2x", "rec_4x", "crf_2x", "crf_4x", "grad_norm"} <= logged[0].keys()
    parts = logged[0]["rec_2x"] + logged[0]["rec_4x"] + 0.001 * (logged[0]["crf_2x"] + logged[0]["crf_4x"])
    assert parts == pytest.approx(logged[0]["loss"], rel=1e-5)
    again = read_recipe(VdimRecipe, str(trained / "recipe.yaml"), stage=read_stage("vdim"))
    assert again.loss.max_pad == 6 and again.training.output_dir == str(trained)
    card = (trained / "README.md").read_text()
    losses = [entry["loss"] for entry in logged if "loss" in entry]
    assert f"{sum(losses) / 6:.4f}" in card and "6, 4 images" in card and "nadam" in card


def test_tensorboard_has_the_curves_and_the_pictures(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [events] = (trained / "runs").iterdir()
    tags = EventAccumulator(str(events)).Reload().Tags()
    assert {"train/loss", "train/rec_4x"} <= set(tags["scalars"])
    assert tags["images"] == ["pyramid"]


def test_checkpoints_hold_what_is_trained_and_not_the_tower(trained):
    names = load_file(trained / "checkpoint-6/model.safetensors").keys()
    assert names and all(name.startswith("objective.") for name in names)


def test_the_file_is_the_trained_up_sampler_and_says_for_what(trained, tower):
    upsampler, facts = load_vdim(trained)
    saved = load_file(trained / "checkpoint-6/model.safetensors")
    for name, tensor in upsampler.state_dict().items():
        torch.testing.assert_close(tensor, saved[f"objective.upsampler.{name}"], rtol=0, atol=0)
    assert (facts.tower, facts.channels, facts.steps, facts.normalisation) == (str(tower), 16, 2, "imagenet")
    assert not upsampler.training


def tiny_model(**projector):
    text = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 600,
    }
    ids = {"image_token_id": 60, "row_separator_id": 1, "slice_separator_id": 2}
    vision = TOWER | {"model_type": "clip_vision_model"}
    return LlavaUhdV2Config(vision_config=vision, text_config=text, projector_config=projector, **ids)


def test_it_goes_into_a_model(trained):
    model = LlavaUhdV2ForConditionalGeneration(tiny_model())
    load_vdim_into(model, trained / "vdim.safetensors")
    upsampler, _ = load_vdim(trained)
    features, pixels = torch.randn(1, 16, 4, 4), torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        for ours, theirs in zip(
            model.eval().model.visual.projector.upsampler(features, pixels), upsampler(features, pixels)
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    other = LlavaUhdV2ForConditionalGeneration(tiny_model(levels=[0, 1]))
    with pytest.raises(ValueError, match="steps 2, not 1"):
        load_vdim_into(other, trained)


def test_assembly_takes_it(trained, tower, tmp_path):
    LlamaForCausalLM(LlamaConfig(**tiny_model().text_config.to_dict())).save_pretrained(tmp_path / "llama")
    shutil.copytree(GOLDEN / "tokenizers/sentencepiece_llama_like", tmp_path / "llama", dirs_exist_ok=True)
    parts = (tower, tmp_path / "llama", tmp_path / "model")
    options = {"vdim": trained / "vdim.safetensors", "row_separator_id": 13, "slice_separator_id": 44}
    assemble(*parts, AssemblyOptions(**options))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    ours = model.model.visual.projector.upsampler.state_dict()
    theirs = load_file(trained / "vdim.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    with pytest.raises(ValueError, match=r"unknown: `stages\.1\."):
        assemble(*parts[:2], tmp_path / "smaller", AssemblyOptions(levels=(0, 1), **options))


def test_damaged_and_foreign_files_are_refused(trained, tmp_path):
    whole = (trained / "vdim.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load_vdim(tmp_path / "cut.safetensors")
    save_file({"stages.0.range_in.weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="no file that `train vdim` has written"):
        load_vdim(tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="There is no vdim.safetensors"):
        load_vdim(tmp_path / "nothing" / "vdim.safetensors")


@pytest.mark.parametrize("model", ["trained", "none", "checkpoint"])
def test_the_pyramid_is_drawn_from_the_command_line(model, trained, photographs, converted_checkpoint, tmp_path):
    source = {"trained": ["--model", str(trained)], "none": [], "checkpoint": ["--model", str(converted_checkpoint)]}
    picture = tmp_path / "pyramid.png"
    command = ["visualize", "--image", str(photographs / "0.png"), "--what", "pyramid", "--out", str(picture)]
    result = CliRunner().invoke(app, [*command, *source[model]])
    assert result.exit_code == 0, result.output
    panels = {"trained": 5, "none": 4, "checkpoint": 5}[model]
    assert Image.open(picture).width > panels * 280


# What is trained


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
def test_every_tower_and_number_of_steps_learns(kind, steps, photographs, tmp_path):
    torch.manual_seed(0)
    if kind == "clip":  # whole, text part included
        text = TOWER | {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2}
        CLIPModel(CLIPConfig(vision_config=TOWER, text_config=text)).save_pretrained(tmp_path / "tower")
    elif kind == "siglip":
        SiglipVisionModel(SiglipVisionConfig(**TOWER)).save_pretrained(tmp_path / "tower")
    else:
        Dinov2Model(Dinov2Config(**(TOWER | {"image_size": 70}))).save_pretrained(tmp_path / "tower")
    recipe = make_recipe(tmp_path / "tower", photographs, tmp_path, f"upsampler.steps={steps}")
    model = build_model(recipe).train()
    assert not any(module.training for module in model.tower.modules())
    outputs = model(torch.randn(2, 3, SIZE, SIZE), torch.tensor([1, 2]))
    outputs["loss"].backward()
    assert sorted(outputs) == sorted(["loss", *(f"{t}_{2**n}x" for n in range(1, steps + 1) for t in ("rec", "crf"))])
    assert all(parameter.grad is None for parameter in model.tower.parameters())
    for name, parameter in model.objective.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_stop_gradient_keeps_a_level_s_loss_from_the_steps_before(tower, photographs, tmp_path):
    for stop in ("true", "false"):
        model = build_model(make_recipe(tower, photographs, tmp_path, f"loss.stop_gradient={stop}")).eval()
        features = model.features(torch.randn(1, 3, SIZE, SIZE))
        levels = model.objective.pyramid(features, torch.randn(1, 3, SIZE, SIZE))
        levels[2].square().sum().backward()
        first, second = (stage.range_in.weight.grad for stage in model.objective.upsampler.stages)
        assert second is not None
        assert (first is None) == (stop == "true")


def test_the_paper_s_loss_is_the_mean_squared_error_of_each_level(tower, photographs, tmp_path):
    """Equation (2) written out; the softmax of a new down-sampler is nearly the mean of a patch."""
    arguments = settings(tower, photographs, tmp_path, "loss.projection_size=null", "loss.max_pad=0")
    recipe = read_recipe(VdimRecipe, "vdim-clip-l-336-paper", arguments, stage=read_stage("vdim"))
    model = build_model(recipe).eval()
    for downsampler in model.objective.downsamplers.values():
        for parameter in downsampler.parameters():
            parameter.data.zero_()
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        outputs = model(pixels, torch.tensor([1, 2]))
        features = model.features(pixels)
        expected = 0
        for level in model.objective.upsampler(features, pixels)[1:]:
            full = F.interpolate(level, size=SIZE, mode="bilinear", align_corners=False)
            expected = expected + (F.avg_pool2d(full, 14) - features).square().mean()
    torch.testing.assert_close(outputs["loss"], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("zoom", [1.0, 1.37])
def test_a_jittered_view_is_padded_enlarged_cropped_and_mirrored(zoom, flip):
    torch.manual_seed(0)
    maps, jitter = torch.randn(2, 3, 9, 9), Jitter(zoom, 4, 7, flip)
    expected = F.interpolate(maps, size=30, mode="bilinear", align_corners=False)
    expected = F.pad(expected, (5,) * 4, mode="reflect")
    if zoom > 1:
        expected = F.interpolate(expected, scale_factor=zoom, mode="bilinear", align_corners=False)
    expected = expected[..., 4:34, 7:37]
    expected = expected.flip(-1) if flip else expected
    torch.testing.assert_close(jittered_views(maps, [jitter] * 2, 30, 5), expected, rtol=0, atol=1e-5)


def test_draws_depend_on_the_image_alone():
    sizes = {"channels": 5, "levels": (1, 2), "grid": 4, "size": SIZE}
    together, alone = draw_jitter([3, 8], 0, VdimLoss(), **sizes), draw_jitter([8], 0, VdimLoss(), **sizes)
    assert together.jitters[1] == alone.jitters[0] != together.jitters[0]
    torch.testing.assert_close(together.projections[1], alone.projections[0], rtol=0, atol=0)
    torch.testing.assert_close(together.masks[2][1], alone.masks[2][0], rtol=0, atol=0)
    assert draw_jitter([8], 1, VdimLoss(), **sizes).points == {}
    drawn = [draw_jitter([seed], 0, VdimLoss(), **sizes).jitters[0] for seed in range(200)]
    assert 60 < sum(jitter.zoom > 1 for jitter in drawn) < 140
    assert 60 < sum(jitter.flip for jitter in drawn) < 140
    for jitter in drawn:
        assert 1 <= jitter.zoom <= 2
        assert max(jitter.row, jitter.column) + SIZE <= (SIZE + 60) * jitter.zoom


def test_dropout_of_an_image_does_not_depend_on_the_batch(tower, photographs, tmp_path):
    model = build_model(make_recipe(tower, photographs, tmp_path)).train()
    pixels, seeds = torch.randn(3, 3, SIZE, SIZE), torch.tensor([5, 6, 7])
    with torch.no_grad():
        together = model(pixels, seeds)["loss"]
        alone = torch.stack([model(pixels[i : i + 1], seeds[i : i + 1])["loss"] for i in range(3)]).mean()
        without = model.eval()(pixels, seeds)["loss"]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)
    assert abs(together - without) > 1e-4


# Images


def test_squares_are_the_centre_of_the_resized_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 101, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    for resize, resample in (("nearest", Image.Resampling.NEAREST), ("bicubic", Image.Resampling.BICUBIC)):
        whole = Image.fromarray(pixels).resize((int(28 * 101 / 60), 28), resample)
        left = round((whole.width - 28) / 2)
        expected = torch.from_numpy(np.array(whole)[:, left : left + 28]).permute(2, 0, 1).float()
        data = VdimData(crop_size=28, resize=resize, normalisation="siglip")
        got = (read_square(str(tmp_path / "wide.png"), data) * 0.5 + 0.5) * 255
        assert (got - expected).abs().max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (20, 30), (700, 3)])
def test_small_and_thin_images_are_enlarged(tmp_path, size):
    Image.new("L", size, 90).save(tmp_path / "small.png")
    square = read_square(str(tmp_path / "small.png"), VdimData(crop_size=28))
    assert square.shape == (3, 28, 28) and square.isfinite().all()


def test_every_epoch_has_every_image_once_in_an_order_of_its_own(photographs):
    data = VdimData(images=str(photographs), crop_size=28)
    images = VdimImages(open_source(data), data, seed=3, total=14)
    names = [images[position]["names"] for position in range(14)]
    assert set(names[:7]) == set(names[7:]) and len(set(names)) == 7
    assert names[:7] != names[7:]
    assert len({images[position]["seeds"] for position in range(14)}) == 14


def test_lists_of_files(photographs):
    names = ["0.png", "2.png"]
    forms = {
        "names.json": json.dumps(names),
        "objects.json": json.dumps([{"image": name} for name in names] + [{"text": "no image"}]),
        "lines.jsonl": "\n".join(json.dumps({"image": name}) for name in names),
    }
    for name, text in forms.items():
        (photographs.parent / name).write_text(text.replace('.png"', '.png"').replace('"0', '"photographs/0'))
    for name in forms:
        source = open_source(VdimData(images=str(photographs.parent / name)))
        assert len(source) == 2 and source[0][0] == str(photographs / "0.png"), name
    (photographs.parent / "wrong.json").write_text('[{"picture": "0.png"}]')
    with pytest.raises(ValueError, match="set `data.images`"):
        open_source(VdimData(images=""))
    with pytest.raises(ValueError, match="`data.column`.*1 entries.*picture"):
        open_source(VdimData(images=str(photographs.parent / "wrong.json")))
    (photographs.parent / "damaged.json").write_text('["0.png"')
    with pytest.raises(ValueError, match="is not valid JSON"):
        open_source(VdimData(images=str(photographs.parent / "damaged.json")))


@pytest.fixture
def shards(photographs, tmp_path, monkeypatch):
    """A data set as the Hub has it: images in four Parquet files, one of them damaged."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # five seconds at the end of an epoch
    folder = tmp_path / "shards"
    folder.mkdir()
    files = [path.read_bytes() for path in sorted(photographs.iterdir())] + [b"no image"]
    for shard in range(4):
        rows = [{"image": {"bytes": data, "path": f"{shard}-{i}"}} for i, data in enumerate(files[shard::4])]
        Dataset.from_list(rows, features=Features(image=ImageFeature())).to_parquet(folder / f"train-{shard}.parquet")
    return folder


def test_a_data_set_is_read_whole_or_as_a_stream(shards):
    data = VdimData(images=str(shards), crop_size=28)
    source = open_source(data)
    assert len(source) == 8
    samples = [VdimImages(source, data, 0, 8)[position] for position in range(8)]
    assert any("PIL reads no image" in entry for sample in samples for entry in sample["skipped"])

    data = VdimData(images=str(shards), crop_size=28, streaming=True)
    seen = []
    for rank in range(2):  # every process reads its own shards
        stream = list(VdimStream(open_stream(data), data, 0, 8, rank=rank, world_size=2))
        assert len(stream) == 8
        seen.append({sample["names"] for sample in stream})
    assert len(seen[0] | seen[1]) == 7 and not seen[0] & seen[1]


def test_a_stream_goes_on_where_it_stopped(shards):
    data = VdimData(images=str(shards), crop_size=28, streaming=True, shuffle_buffer=3)
    whole = list(VdimStream(open_stream(data), data, 0, 20))
    for start in (1, 5, 8, 13):
        rest = list(VdimStream(open_stream(data), data, 0, 20, start=start))
        assert [s["names"] for s in rest] == [s["names"] for s in whole[start:]]
        assert [s["seeds"] for s in rest] == [s["seeds"] for s in whole[start:]]


@pytest.mark.slow
def test_a_stream_trains_and_resumes_with_the_same_losses(tower, shards, tmp_path):
    more = ["data.streaming=true", "training.save_steps=2"]
    train_vdim(make_recipe(tower, shards, tmp_path / "whole", *more, "training.max_steps=4"))
    train_vdim(make_recipe(tower, shards, tmp_path / "halves", *more, "training.max_steps=2"))
    train_vdim(make_recipe(tower, shards, tmp_path / "halves", *more, "training.max_steps=4"))
    assert logged_losses(tmp_path / "halves", 4) == logged_losses(tmp_path / "whole", 4)


# Bad input


def test_unreadable_images_are_named_and_skipped_up_to_the_limit(tower, tmp_path, caplog):
    images = write_photographs(tmp_path / "images", 4)
    (images / "3.png").rename(images / "höchste 3.png")
    (images / "cut.png").write_bytes((images / "1.png").read_bytes()[:200])
    (images / "text.jpg").write_text("no image")
    (images / "empty.gif").touch()
    train_vdim(make_recipe(tower, images, tmp_path / "out", "data.max_unreadable=3"))
    for name in ("cut.png", "text.jpg", "empty.gif"):
        assert sum(f"Skipped {images / name}" in record.message for record in caplog.records) == 1
    assert "| images skipped as unreadable | 3 |" in (tmp_path / "out/README.md").read_text()
    assert len((tmp_path / "out/skipped.txt").read_text().splitlines()) == 3

    more = ["training.per_device_train_batch_size=1", "training.max_steps=4", "training.save_steps=1"]
    with pytest.raises(ValueError, match="3 images can't be read, more than `data.max_unreadable`=2"):
        train_vdim(make_recipe(tower, images, tmp_path / "stopped", "data.max_unreadable=2", *more))
    train_vdim(make_recipe(tower, images, tmp_path / "stopped", *more))  # goes on
    assert (tmp_path / "stopped/vdim.safetensors").exists()


def test_images_that_are_all_unreadable_end_the_training(tower, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_text("no image")
    with pytest.raises(ValueError, match="1 images can't be read.*or all; the last is .*a.png"):
        train_vdim(make_recipe(tower, tmp_path / "images", tmp_path / "out"))


def test_a_tower_that_does_not_fit_is_refused_before_data_is_read(tower, tmp_path):
    nowhere = tmp_path / "no-images"
    with pytest.raises(ValueError, match="`data.crop_size`=60 is no multiple.*56 or 70"):
        train_vdim(make_recipe(tower, nowhere, tmp_path / "out", "data.crop_size=60"))
    with pytest.raises(ValueError, match="`vision_feature_layer`=-9"):
        train_vdim(make_recipe(tower, nowhere, tmp_path / "out", "vision_feature_layer=-9"))
    ResNetConfig().save_pretrained(tmp_path / "resnet")
    with pytest.raises(ValueError, match="`resnet` is not supported"):
        train_vdim(make_recipe(tmp_path / "resnet", nowhere, tmp_path / "out"))
    grey = CLIPVisionConfig(**TOWER, num_channels=1)
    CLIPVisionModel(grey).save_pretrained(tmp_path / "grey")
    with pytest.raises(ValueError, match="`num_channels` is 1"):
        train_vdim(make_recipe(tmp_path / "grey", nowhere, tmp_path / "out"))
    with pytest.raises(ValueError, match="no-images is not a folder of images"):
        train_vdim(make_recipe(tower, nowhere, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_stops_with_its_files(tower, photographs, tmp_path, monkeypatch):
    forward, calls = VdimPretraining.forward, []

    def fail_in_third_step(self, **inputs):
        outputs = forward(self, **inputs)
        calls.append(len(inputs["seeds"]))
        return outputs | {"loss": outputs["loss"] * (math.nan if len(calls) == 6 else 1)}

    monkeypatch.setattr(VdimPretraining, "forward", fail_in_third_step)
    more = ["training.per_device_train_batch_size=2", "training.save_steps=1"]
    with pytest.raises(ValueError, match=r"loss is not finite at step 3: [^,]*png, [^,]*png; look"):
        train_vdim(make_recipe(tower, photographs, tmp_path / "out", *more))
    assert calls == [2] * 6
    last = load_file(tmp_path / "out/checkpoint-2/model.safetensors")
    assert all(tensor.isfinite().all() for tensor in last.values())
    assert not (tmp_path / "out/checkpoint-3").exists() and not (tmp_path / "out/vdim.safetensors").exists()


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(tower, photographs, tmp_path, monkeypatch):
    forward = VdimPretraining.forward

    def poison(self, **inputs):
        outputs = forward(self, **inputs)
        weight = self.objective.upsampler.stages[0].spatial_width
        return outputs | {"loss": outputs["loss"] + (weight - weight.detach()).abs().sqrt().sum()}  # 0, slope infinite

    monkeypatch.setattr(VdimPretraining, "forward", poison)
    with pytest.raises(ValueError, match=r"gradient is not finite at step 1: (\S*png[,;] ){4}look"):
        train_vdim(make_recipe(tower, photographs, tmp_path / "out"))


def test_another_recipe_does_not_go_on(trained, tower, photographs):
    with pytest.raises(ValueError, match=r"another recipe \(loss, training.learning_rate differ\)"):
        train_vdim(make_recipe(tower, photographs, trained, "loss.jitters=1", "training.learning_rate=0.1"))


def test_the_first_steps_are_clipped(tower, photographs, tmp_path, monkeypatch):
    limits = []
    step = VdimTrainer.training_step
    monkeypatch.setattr(VdimTrainer, "training_step", lambda t, *a: limits.append(t.args.max_grad_norm) or step(t, *a))
    more = ["first_steps=2", "first_max_grad_norm=1e-4", "training.max_grad_norm=5", "training.max_steps=4"]
    train_vdim(make_recipe(tower, photographs, tmp_path / "out", *more))
    assert limits == [1e-4, 1e-4, 5, 5]


# Kill and resume, several processes


def run_command(*arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([*arguments], env=environment, **options)


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_same_losses(tower, photographs, tmp_path):
    more = ["training.max_steps=40", "training.save_steps=5"]
    killed = run_command(*COMMAND, "vdim-clip-l-336-released", *settings(tower, photographs, tmp_path / "a", *more))
    deadline = time.monotonic() + 120
    while not (tmp_path / "a/checkpoint-10/trainer_state.json").exists():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "a/vdim.safetensors").exists()

    resumed = run_command(*COMMAND, "vdim-clip-l-336-released", *settings(tower, photographs, tmp_path / "a", *more))
    assert resumed.wait() == 0
    train_vdim(make_recipe(tower, photographs, tmp_path / "b", *more))
    losses = logged_losses(tmp_path / "a", 40)
    assert sorted(losses) == list(range(1, 41))
    assert losses == logged_losses(tmp_path / "b", 40)
    ours, theirs = (load_file(tmp_path / f"{run}/vdim.safetensors") for run in "ab")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_checkpoint_that_a_kill_cut_off_is_passed_over(trained, tower, photographs, tmp_path):
    more = ["training.max_steps=4", "training.save_steps=2"]
    train_vdim(make_recipe(tower, photographs, tmp_path / "a", *more))
    whole = logged_losses(tmp_path / "a", 4)
    (tmp_path / "a/trainer_state.json").unlink()  # what is written last
    (tmp_path / "a/checkpoint-4/trainer_state.json").write_text('{"log_history": [')
    train_vdim(make_recipe(tower, photographs, tmp_path / "a", *more))
    assert logged_losses(tmp_path / "a", 4) == whole


@pytest.mark.slow
def test_two_processes_have_the_curve_of_one(tower, photographs, tmp_path):
    more = ["training.max_steps=12"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    left = "app(standalone_mode=False); import torch; assert not torch.distributed.is_initialized()"
    program = [word.replace("app()", left) for word in COMMAND]
    pair = settings(tower, photographs, tmp_path / "two", *more)
    assert run_command(*launch, *program, "vdim-clip-l-336-released", *pair).wait() == 0
    train_vdim(make_recipe(tower, photographs, tmp_path / "one", *more))
    one, two = (logged_losses(tmp_path / run, 12) for run in ("one", "two"))
    assert sorted(one) == list(range(1, 13))
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_accumulated_batches_have_the_same_curve(tower, photographs, tmp_path):
    train_vdim(make_recipe(tower, photographs, tmp_path / "whole"))
    train_vdim(make_recipe(tower, photographs, tmp_path / "parts", "training.per_device_train_batch_size=3"))
    assert logged_losses(tmp_path / "parts", 3) == pytest.approx(logged_losses(tmp_path / "whole", 3), rel=1e-4)


# Documentation and benchmark


@pytest.mark.slow
def test_the_benchmark_measures_both_sides(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module("vdim_pretraining")
    for name in ("TOWER_STEPS", "CROPS", "PAGES", "HELD_OUT_CROPS", "HELD_OUT_PAGES"):
        monkeypatch.setattr(benchmark, name, 4)
    benchmark.main(steps=2, seeds=2, batch_size=2, threads=1, json_file=tmp_path / "out.json", pictures=tmp_path)
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    for side in ("bilinear", "new", "vdim"):
        assert len(results[side]) == 2
        assert all(0 < error < 5 for run in results[side] for error in run.values())
    key = "fixed mean/jittered/4x"  # which has no weights on the bilinear side
    assert results["bilinear"][0][key] == results["bilinear"][1][key]
    assert len({results[side][0][key] for side in results}) == 3
    assert {path.name for path in tmp_path.glob("*.png")} == {"vdim_pyramid.png", "vdim_losses.png"}


def documented_commands():
    text = (ROOT / "docs/vdim.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.slow
def test_the_documented_commands_run(tower, photographs, tmp_path, monkeypatch):
    """At a small size: the same lines with a tiny tower, images and steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes((photographs / "0.png").read_bytes())
    commands = [line for line in documented_commands() if "llava-uhd-v2" in line and "assemble" not in line]
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command)
        place = words.index("llava-uhd-v2")
        program = [sys.executable, "-c", COMMAND[2], *words[place + 1 :]]
        if words[place + 1] == "train":
            output = next((w.partition("=")[2] for w in words if w.startswith("training.output_dir=")), "vdim")
            program += settings(tower, photographs, output)
        elif "--model" in words:
            program[program.index("--model") + 1] = "vdim"
        launcher = [sys.executable, "-m", "torch.distributed.run", *words[1:place]] if place else []
        assert run_command(*launcher, *program).wait() == 0, command
