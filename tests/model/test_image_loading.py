# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Every form in which an image can come, and every way in which it can be unusable."""

import base64
import io
import logging
import struct
import threading
import time
import warnings
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava_uhd_v2_hf import LlavaUhdV2ImageProcessor
from llava_uhd_v2_hf.model import image_loading_llava_uhd_v2
from llava_uhd_v2_hf.model.image_loading_llava_uhd_v2 import as_image, read_pixels, read_rgb
from tests.support.fuzz_images import fuzz


FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]
RAMP = np.linspace(0, 255, 12).round().astype(np.uint8).reshape(3, 4)  # a grey image of 3 x 4 pixels


@pytest.fixture
def processor():
    return LlavaUhdV2ImageProcessor(slice_resolution=28)


@pytest.fixture(scope="module")
def picture():
    """(20, 30, 3), smooth enough for JPEG."""
    rows, columns = np.mgrid[0:20, 0:30]
    return np.stack([rows * 12, columns * 8, 255 - rows * 6 - columns * 4], axis=-1).astype(np.uint8)


def encode(pixels, file_format="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, file_format, **options)
    return stream.getvalue()


def promise_size(png, height, width):
    """The PNG with another size in its header, and the header's checksum made right."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@pytest.fixture(scope="module")
def server(picture):
    """A web server that has one picture, and pages that are none; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/picture.png")
                self.end_headers()
            elif self.path == "/picture.png":
                self.reply(encode(picture))
            elif self.path == "/page":
                self.reply(b"<html>No picture</html>")
            elif self.path == "/silent":
                time.sleep(1)
            elif self.path == "/endless":
                self.send_response(200)
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(bytes(1 << 16))
                except OSError:  # the client has hung up
                    pass
            else:
                self.send_error(404)

        def reply(self, body):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


# Forms that are opened


@pytest.mark.parametrize("file_format", FORMATS)
def test_files_are_read_by_path(picture, tmp_path, file_format):
    lossless = {"WEBP": {"lossless": True}}.get(file_format, {})
    file = tmp_path / "picture"
    file.write_bytes(encode(picture, file_format, **lossless))
    for path in (file, str(file)):
        image = as_image(path)
        assert image.filename == str(file)
        difference = np.abs(read_pixels(image).astype(int) - picture)
        assert difference.mean() <= {"JPEG": 5, "GIF": 5}.get(file_format, 0)


def test_base64_is_read(picture):
    plain = base64.b64encode(encode(picture)).decode()
    wrapped = base64.encodebytes(encode(picture)).decode()
    for source in (plain, wrapped, f"data:image/png;base64,{plain}", f"DATA:;base64,{plain}"):
        np.testing.assert_array_equal(read_pixels(as_image(source)), picture)


def test_urls_are_read(picture, server):
    for url in (f"{server}/picture.png", f"{server}/moved", f"{server}/picture.png".replace("http", "HTTP")):
        np.testing.assert_array_equal(read_pixels(as_image(url)), picture)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_every_source(picture, tmp_path, orientation):
    upright = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture, -1),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture, exif=exif)
    file = tmp_path / "turned.png"
    file.write_bytes(data)
    for source in (file, base64.b64encode(data).decode(), Image.open(file)):
        np.testing.assert_array_equal(read_pixels(as_image(source)), upright)


def test_the_first_frame_of_an_animation_is_taken(picture):
    stream = io.BytesIO()
    frames = [Image.fromarray(picture).quantize(64), Image.new("P", (30, 20))]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    expected = np.asarray(frames[0].convert("RGB"))
    np.testing.assert_array_equal(read_pixels(as_image(base64.b64encode(stream.getvalue()).decode())), expected)


# Modes of PIL


def grey_of(mode):
    """`RAMP` in a mode of PIL, by PIL's own conversion, or by arrays where PIL would cut values off."""
    if mode == "F":
        return Image.fromarray((RAMP / 255).astype(np.float32))
    if mode == "I":
        return Image.fromarray(RAMP.astype(np.int32) * 257)
    if mode.startswith("I;16"):
        order = ">" if mode == "I;16B" else "<"
        return Image.frombytes(mode, (4, 3), (RAMP.astype(np.uint16) * 257).astype(f"{order}u2").tobytes())
    image = Image.fromarray(RAMP)
    if mode in ("PA", "La"):
        return image.convert("LA").convert(mode)
    if mode == "LAB":
        return image.convert("RGB").convert("LAB")
    if mode in ("RGBa", "HSV", "YCbCr", "CMYK", "RGBX"):
        return image.convert("RGBA" if mode == "RGBa" else "RGB").convert(mode)
    return image.convert(mode)


MODES = ["L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"]


@pytest.mark.parametrize("mode", [*MODES, "I;16", "I;16L", "I;16B", "I;16N"])
def test_grey_is_the_same_in_every_mode(mode):
    image = grey_of(mode)
    assert image.mode == mode
    pixels = read_pixels(image)
    pixels = np.round(pixels * 255) if pixels.dtype != np.uint8 else pixels
    assert pixels.shape == (3, 4, 3)
    tolerance = 3 if mode == "LAB" else 0  # Lab of 8 bits is coarse
    np.testing.assert_allclose(pixels.astype(int), np.repeat(RAMP[..., None], 3, axis=-1), atol=tolerance)


def test_one_bit_is_black_and_white():
    bits = RAMP > 100
    for image in (Image.fromarray(bits), as_image(bits), torch.from_numpy(bits)[None]):
        np.testing.assert_array_equal(read_pixels(image), np.repeat(bits[..., None] * 255, 3, axis=-1))


def test_colours_are_the_same_in_every_mode(picture):
    image = Image.fromarray(picture)
    for mode, tolerance in {"CMYK": 0, "RGBX": 0, "RGBA": 0, "YCbCr": 3, "HSV": 6}.items():
        difference = read_pixels(image.convert(mode)).astype(int) - picture
        assert np.abs(difference).max() <= tolerance, mode


FORMS = {
    **{f"PIL {mode}": lambda mode=mode: grey_of(mode) for mode in [*MODES, "I;16"]},
    "grey floats": lambda: RAMP / 255,
    "floats": lambda: np.repeat(RAMP[None], 3, axis=0).astype(np.float32) / 255,
    "float16": lambda: (RAMP / 255).astype(np.float16),
    "tensor": lambda: torch.from_numpy(RAMP)[None],
    "tensor of floats": lambda: torch.from_numpy(RAMP / 255).float()[None],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_an_8_bit_picture(form):
    picture = read_rgb(FORMS[form]())
    assert picture.mode == "RGB"
    tolerance = 3 if form == "PIL LAB" else 0
    np.testing.assert_allclose(np.asarray(picture).astype(int), np.repeat(RAMP[..., None], 3, -1), atol=tolerance)


def transparent_forms():
    """A picture with every opacity, in each form that has one."""
    rgba = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    image, key = Image.fromarray(rgba), Image.fromarray(rgba[..., :3])
    key.info["transparency"] = tuple(rgba[3, 4, :3].tolist())
    palette = key.quantize(16)
    palette.info["transparency"] = bytes(range(0, 256, 16))
    grey = Image.fromarray(rgba[..., 0])
    grey.info["transparency"] = int(rgba[3, 4, 0])
    return {
        "RGBA": image,
        "LA": image.convert("LA"),
        "RGBa": image.convert("RGBa"),
        "PA": palette.convert("PA"),
        "palette": palette,
        "colour key": key,
        "grey key": grey,
        "array": rgba,
        "channels first": torch.from_numpy(rgba).permute(2, 0, 1),
        "floats": rgba / np.float32(255),
        "16 bits": rgba.astype(np.uint16) * 257,
    }


@pytest.mark.parametrize("form", transparent_forms())
def test_alpha_can_be_blended_with_white(form):
    source = transparent_forms()[form]
    image = source if isinstance(source, Image.Image) else transparent_forms()["RGBA"]
    rgba = image.convert("RGBA")
    white = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    np.testing.assert_array_equal(np.asarray(read_rgb(source, alpha="white")), np.asarray(white))
    assert (np.asarray(read_rgb(source)) != np.asarray(white)).any()


def test_a_grey_of_16_bits_can_be_transparent():
    stream = io.BytesIO()
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(stream, "PNG", transparency=int(RAMP[1, 2]) * 257)
    white = np.asarray(read_rgb(Image.open(stream), alpha="white"))[..., 0]
    assert white[1, 2] == 255
    np.testing.assert_array_equal(np.delete(white, 6), np.delete(RAMP, 6))


@pytest.fixture
def warned(caplog, monkeypatch):
    """The warnings of the library so far."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(image_loading_llava_uhd_v2.logger, "propagate", True)
    type(image_loading_llava_uhd_v2.logger).warning_once.cache_clear()
    return lambda: [record.getMessage() for record in caplog.records if "alpha" in record.getMessage()]


def test_an_image_that_is_drawn_by_its_alpha_is_warned_about_once(warned):
    ink = np.zeros((20, 30, 4), np.uint8)
    ink[5:9, :, 3] = 255  # black on transparent black
    for source in (np.full((20, 30, 4), 9, np.uint8), np.random.default_rng(0).integers(0, 256, (9, 9, 4), np.uint8)):
        read_rgb(source)
    read_rgb(ink, alpha="white")
    assert warned() == []
    for source in (ink, Image.fromarray(ink), ink / 255):
        read_rgb(source)
    [message] = warned()
    assert 'alpha="white"' in message


def test_alpha_is_dropped(picture):
    transparent = np.dstack([picture, np.zeros((20, 30), np.uint8)])
    np.testing.assert_array_equal(read_pixels(Image.fromarray(transparent)), picture)
    palette = Image.fromarray(picture).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    palette.info["transparency"] = bytes(range(16))
    with warnings.catch_warnings(action="error"):
        np.testing.assert_array_equal(read_pixels(palette), expected)


def test_files_of_16_bits_are_scaled(tmp_path):
    wide = RAMP.astype(np.uint16) * 257
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide).save(tmp_path / "wide.tif")
    (tmp_path / "wide.pgm").write_bytes(b"P5 4 3 65535\n" + wide.astype(">u2").tobytes())
    for file in tmp_path.iterdir():
        np.testing.assert_array_equal(read_pixels(as_image(file))[..., 0], RAMP, str(file))


# Arrays and tensors

TYPES = [np.uint8, np.uint16, np.int8, np.int16, np.int32, np.int64, np.uint32, np.uint64]


@pytest.mark.parametrize("dtype", [*TYPES, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_arrays_of_every_type(picture, dtype, convert):
    dtype = np.dtype(dtype)
    expected = picture // 2 if dtype == np.int8 else picture
    array = expected.astype(dtype)
    if dtype == np.uint16:
        array *= 257
    elif dtype.kind == "f":
        array /= 255
    for ordered in (array, array.transpose(2, 0, 1).copy()):
        pixels = read_pixels(as_image(convert(ordered)))
        assert pixels.dtype.kind == ("f" if dtype.kind == "f" else "u")
        pixels = np.round(pixels.astype(np.float32) * 255) if dtype.kind == "f" else pixels
        np.testing.assert_array_equal(pixels, expected)


def test_tensors_may_be_bfloat16_or_need_gradients(picture):
    floats = torch.from_numpy(picture / 255)
    pixels = read_pixels(floats.bfloat16())
    assert np.abs(pixels - picture / 255).max() < 1 / 255
    np.testing.assert_allclose(read_pixels(floats.clone().requires_grad_()), picture / 255, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (4, 3), (1, 3), (3, 1), (20, 30)])
def test_arrays_of_two_dimensions_are_grey(processor, shape):
    grey = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    for array in (grey, torch.from_numpy(grey)):
        np.testing.assert_array_equal(read_pixels(as_image(array))[..., 1], grey)
        assert len(processor([array, array])["image_sizes"]) == 2


def test_batches_of_four_dimensions(processor, picture):
    batch = np.stack([picture, picture])
    assert len(processor(batch)["image_sizes"]) == 2
    assert len(processor([batch, torch.from_numpy(batch)])["image_sizes"]) == 4


# What is refused


def test_unusable_files_are_named(processor, picture, tmp_path):
    png = encode(picture)
    files = {
        "empty.png": (b"", "empty"),
        "text.png": (b"not an image at all", "PIL reads no image in it"),
        "cut.png": (png[: len(png) // 2], "cannot be decoded"),
        "cut.jpg": (encode(picture, "JPEG")[:-40], "cannot be decoded"),
        "damaged.png": (png[:60] + bytes(20) + png[80:], "cannot be decoded"),
        "huge.png": (promise_size(png, 9000, 12000), "108000000 pixels .* `max_image_pixels`, 100000000"),
        "bomb.png": (promise_size(png, 90000, 120000), "PIL refuses it.*10800000000 pixels.*178956970 pixels"),
        "program.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "PIL reads no image"),
    }
    for name, (data, message) in files.items():
        file = tmp_path / name
        file.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with pytest.raises(ValueError, match=rf"^Image 1 \(.*/{name}\) cannot be used: .*{message}"):
                processor([[picture], [file]])
        if name.startswith("cut"):  # also where the user has opened it
            with pytest.raises(ValueError, match=rf"^Image 0 \(.*/{name}\) cannot be used: .*{message}"):
                processor(Image.open(file))


@pytest.mark.parametrize("source", ["photo.jpg", "/no/such file.jpg", "data:image/png;base64,x", "a\0b", "x" * 5000])
def test_sources_that_do_not_exist_are_named(processor, source):
    name = source[:30]
    with pytest.raises(ValueError, match="Image 0 .* cannot be used: (it is no file|PIL reads no image)") as error:
        processor(source)
    assert name in str(error.value)
    assert len(str(error.value)) < 500


def test_folders_and_unreadable_files_are_named(processor, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=f"{tmp_path}.* it is no file"):
        processor(tmp_path)
    file = tmp_path / "locked.png"
    file.write_bytes(b"x")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"locked\.png\) cannot be used: it cannot be read .*Permission denied"):
        processor(file)


def test_files_beyond_the_limit_are_not_read(processor, picture, tmp_path, monkeypatch):
    file = tmp_path / "large.png"
    file.write_bytes(encode(picture))
    monkeypatch.setattr(image_loading_llava_uhd_v2, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match=r"large\.png.* bytes, more than 10;"):
        processor(file)


def test_unusable_urls_are_named(processor, server, monkeypatch):
    def refused(path, message):
        with pytest.raises(ValueError, match=rf"Image 0 \({server}/{path}\) cannot be used: .*{message}"):
            processor(f"{server}/{path}")

    refused("missing.png", "404")
    refused("page", "PIL reads no image")
    monkeypatch.setattr(image_loading_llava_uhd_v2, "SILENCE_TIMEOUT", 0.2)
    refused("silent", "timed out")
    monkeypatch.setattr(image_loading_llava_uhd_v2, "MAX_BYTES", 1 << 20)
    refused("endless", "more than 1048576 bytes")
    with pytest.raises(ValueError, match=r"\(http://127.0.0.1:1/x.png\) cannot be used: downloading it failed"):
        processor("http://127.0.0.1:1/x.png")
    with pytest.raises(ValueError, match=r"\(http://\[\) cannot be used: downloading it failed"):
        processor("http://[")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (0, 5)), r"\(5, 0\)"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5\)"),
        (np.zeros((0, 5), np.float32), r"\(0, 5\)"),
        (np.full((9, 9, 3), 256), "256; scale them to 0 to 255"),
        (np.full((9, 9, 3), -1), "-1"),
        (np.full((9, 9, 3), 1.5), r"1\.5; scale them to \[0, 1\]"),
        (np.full((9, 9, 3), -0.5), r"-0\.5 to -0\.5"),
        (np.full((9, 9, 3), np.nan), "243 of its values are NaN or infinite"),
        (np.full((9, 9), np.inf), "values are NaN or infinite"),
        (torch.full((3, 9, 9), torch.nan, dtype=torch.bfloat16), "243 of its values are NaN"),
        (Image.fromarray(np.full((9, 9), np.nan, np.float32)), "values are NaN or infinite"),
        (Image.fromarray(np.full((9, 9), 255, np.float32)), r"255\.0; scale them to \[0, 1\]"),
        (Image.fromarray(np.full((9, 9), 65536, np.int32)), "65536; scale it to 0 to 65535"),
        (np.zeros((9, 9, 3), complex), "complex128"),
        (np.full((9, 9, 3), "x"), "<U1"),
        (np.zeros((9, 9, 5), np.uint8), r"\(9, 9, 5\) has no axis"),
        (np.zeros((9, 9, 2), np.uint8), r"\(9, 9, 2\) has no axis"),
        (np.zeros(9, np.uint8), r"\(9,\) is no image's"),
        (np.zeros((1, 1, 9, 9, 3), np.uint8), r"\(1, 1, 9, 9, 3\) is no image's"),
        (None, "it is a NoneType"),
        (b"bytes", "it is a bytes"),
        ({"path": "x.png"}, "it is a dict"),
        (7, "it is a int"),
    ],
)
def test_unusable_images_are_named(processor, image, message):
    with pytest.raises(ValueError, match=f"^Image 1 cannot be used: .*{message}"):
        processor([Image.new("RGB", (9, 9)), image])


def test_closed_images_are_named(processor, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        pass
    with pytest.raises(ValueError, match=r"Image 0 \(.*picture\.png\) cannot be used"):
        processor(image)


def test_images_and_lists_are_not_mixed(processor, picture):
    for images in ([picture, [picture]], [[picture], picture], [[[picture]]], [[np.stack([picture])]]):
        with pytest.raises(ValueError, match="`images` mixes images and lists"):
            processor(images)


# The limit of pixels


def test_the_pixel_limit_holds_for_every_form(picture, tmp_path):
    file = tmp_path / "picture.png"
    file.write_bytes(encode(picture))
    forms = [picture, torch.from_numpy(picture), picture[..., 0], Image.fromarray(picture), file]
    limited = LlavaUhdV2ImageProcessor(max_image_pixels=599)
    for image in forms:
        with pytest.raises(ValueError, match=r"its 600 pixels \(height 20, width 30\).*`max_image_pixels`, 599"):
            limited(image)
        for limit in (600, None):
            limited(image, max_image_pixels=limit)


def test_the_pixel_limit_is_checked_before_decoding(picture, monkeypatch):
    image = as_image(base64.b64encode(promise_size(encode(picture), 8000, 8000)).decode())
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="its 64000000 pixels"):
        read_pixels(image, max_pixels=1_000_000)


def test_an_icon_may_not_hold_more_than_it_promises(picture):
    """The size in an icon's directory is one byte a side; the PNG inside has its own."""
    png = promise_size(encode(picture), 300, 200)
    entry = struct.pack("<BBBBHHII", 30, 20, 0, 0, 1, 24, len(png), 22)
    icon = base64.b64encode(struct.pack("<HHH", 0, 1, 1) + entry + png).decode()
    with pytest.raises(ValueError, match="max_image_pixels|cannot be decoded"):
        read_pixels(as_image(icon), max_pixels=1000)


def test_no_pixel_limit_is_saved(tmp_path):
    for limit in (None, 1234):
        processor = LlavaUhdV2ImageProcessor(max_image_pixels=limit)
        assert processor.max_image_pixels == limit
        processor.save_pretrained(tmp_path)
        assert LlavaUhdV2ImageProcessor.from_pretrained(tmp_path).max_image_pixels == limit
    assert LlavaUhdV2ImageProcessor().max_image_pixels == 100_000_000


@pytest.mark.slow
def test_damaged_files_and_random_arguments():
    outcomes, failures, _ = fuzz(seed=1, first=0, cases=700, timeout=20)
    assert failures == []
    assert sum(outcomes.values()) == 700
    assert len({kind for kind, _ in outcomes}) == 55  # nine mutations of six formats, and arrays
