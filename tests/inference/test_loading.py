# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Images of files on every way to the model: the picture is the one that the image processor cuts."""

import numpy as np
import pytest
import torch
from PIL import Image

from llava_uhd_v2_hf import LlavaUhdV2Config, LlavaUhdV2ImageProcessor
from llava_uhd_v2_hf.data.sample_images import open_resized
from llava_uhd_v2_hf.evaluation.image_rules import pre_resized_image
from llava_uhd_v2_hf.inference.inspection import inspect_image
from llava_uhd_v2_hf.inference.loading import read_image
from llava_uhd_v2_hf.pictures.pyramid import PyramidParts, draw_pyramid
from llava_uhd_v2_hf.serve.decoding import decode_image
from llava_uhd_v2_hf.serve.limits import Limits
from llava_uhd_v2_hf.training.stages.vdim.images import read_square
from llava_uhd_v2_hf.training.stages.vdim.recipe import VdimData


GREY = np.linspace(0, 255, 60 * 90).round().astype(np.uint8).reshape(60, 90)
FILES = {
    "F.tiff": Image.fromarray((GREY / 255).astype(np.float32)),
    "I.tiff": Image.fromarray(GREY.astype(np.int32) * 257),
    "I16.png": Image.fromarray(GREY.astype(np.uint16) * 257),
    "L.png": Image.fromarray(GREY),
    "LA.png": Image.fromarray(GREY).convert("LA"),
    "P.png": Image.fromarray(GREY).convert("P"),
    "CMYK.tiff": Image.fromarray(GREY).convert("CMYK"),
    "RGB.png": Image.fromarray(GREY).convert("RGB"),
}
INK = Image.fromarray(np.dstack([np.zeros((60, 90, 3), np.uint8), 255 - GREY]))  # black, drawn by its alpha alone


def serve(path, image_processor):
    return decode_image(path.read_bytes(), image_processor, Limits.image_pixels)


WAYS = {
    "commands and page": read_image,
    "inspect": lambda path, processor: inspect_image(path, processor, LlavaUhdV2Config()).views[-1],
    "pyramid": lambda path, processor: draw_pyramid(path, PyramidParts(processor, LlavaUhdV2Config())),
    "evaluation": lambda path, processor: pre_resized_image(path, "gqa", "released-sequential", processor),
    "training": lambda path, processor: open_resized(
        str(path), "textvqa/a", "released-sequential", torch.Generator(), processor.alpha
    ),
    "server": serve,
}


@pytest.fixture(params=WAYS)
def read(request):
    def read(path, **fields):
        return np.asarray(WAYS[request.param](path, LlavaUhdV2ImageProcessor(**fields)))

    read.name = request.param
    return read


@pytest.mark.parametrize("name", FILES)
def test_images_of_every_mode_are_read(read, name, tmp_path):
    if read.name == "server" and not name.endswith(".png"):
        return  # which reads no TIFF
    FILES[name].save(tmp_path / name)
    Image.fromarray(GREY).convert("RGB").save(tmp_path / "expected.png")
    np.testing.assert_array_equal(read(tmp_path / name), read(tmp_path / "expected.png"))


def test_transparency_is_what_the_image_processor_says(read, tmp_path):
    INK.save(tmp_path / "ink.png")
    for name, colour in (("drop", "black"), ("white", "white")):
        picture = Image.new("RGBA", INK.size, colour)
        picture.alpha_composite(INK)
        picture.convert("RGB").save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read(tmp_path / "ink.png", alpha=name), read(tmp_path / f"{name}.png"))
    assert (read(tmp_path / "white.png") != read(tmp_path / "drop.png")).any()


@pytest.mark.parametrize("name", FILES)
def test_pre_training_of_an_up_sampler_reads_every_mode(name, tmp_path):
    FILES[name].save(tmp_path / name)
    FILES["RGB.png"].save(tmp_path / "expected.png")
    squares = [read_square(str(tmp_path / file), VdimData(crop_size=28)) for file in (name, "expected.png")]
    assert torch.equal(*squares)
