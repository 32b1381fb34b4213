# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Feeds damaged images and random arguments to the image processor: all are read, or refused by errors that name them.

    python tests/support/fuzz_images.py --cases 20000                # a table of outcomes; exit code 1 if one failed
    python tests/support/fuzz_images.py --first 1234 --cases 1       # one case again

A case depends on the seed and its number alone. Cases run in a process of their own: one that crashes or takes longer
than `--timeout` seconds ends it, is counted as failed, and the next case starts another.
"""

import argparse
import base64
import collections
import faulthandler
import io
import json
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image

from llava_uhd_v2_hf import LlavaUhdV2ImageProcessor
from llava_uhd_v2_hf.model.geometry_llava_uhd_v2 import SlicePlan


MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "WEBP": ["RGB", "RGBA"],
    "GIF": ["L", "P"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
}
DTYPES = ["bool", "uint8", "int8", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64", "complex64"]


def make_file(rng: random.Random, file_format: str) -> bytes:
    """A sound image file of noise."""
    mode = rng.choice(MODES[file_format])
    size = rng.randint(1, 64), rng.randint(1, 64)
    image = Image.frombytes("RGBA", size, rng.randbytes(4 * size[0] * size[1]))
    if mode in ("I;16", "I", "F"):
        scale, dtype = {"I;16": (257, "u2"), "I": (257, "i4"), "F": (1 / 255, "f4")}[mode]
        image = Image.fromarray((np.asarray(image.convert("L")) * np.float64(scale)).astype(dtype))
    else:
        image = image.convert("RGB").convert(mode) if mode == "LAB" else image.convert(mode)
    options = {}
    if file_format == "JPEG":
        options = {"progressive": rng.random() < 0.5, "quality": rng.randint(1, 95)}
    elif file_format == "TIFF" and mode != "LAB":
        fax = ["group3", "group4"] if mode == "1" else []
        options = {"compression": rng.choice([None, "tiff_lzw", "tiff_adobe_deflate", "packbits", *fax])}
    elif file_format == "GIF" and rng.random() < 0.5:
        options = {"save_all": True, "append_images": [image.rotate(90)]}
    if file_format in ("PNG", "JPEG", "WEBP", "TIFF") and rng.random() < 0.3:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = rng.randint(1, 8)  # orientation
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def flip_bits(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 10, 100])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def flip_header_bits(rng, data):
    return flip_bits(rng, data[:64]) + data[64:]


def cut_off(rng, data):
    return data[: rng.randrange(len(data))]


def cut_out(rng, data):
    begin, end = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    return data[:begin] + data[end:]


def splice(rng, data):
    other = make_file(rng, rng.choice(list(MODES)))
    begin = rng.randrange(len(data))
    return data[:begin] + other[rng.randrange(len(other)) :] + data[begin * rng.randint(0, 1) :]


def insert_noise(rng, data):
    begin = rng.randrange(len(data))
    return data[:begin] + rng.randbytes(rng.choice([1, 4, 50, 1000])) + data[begin:]


def replace_by_noise(rng, data):
    return data[: rng.randint(0, 16)] + rng.randbytes(rng.randint(0, 300))


def keep(rng, data):
    return data


def resize_header(rng, data):
    """Writes another width and height where the format has them (a size of 0 to 2**32 - 1)."""
    sides = [rng.choice([0, 1, 65, 300, 9000, 30000, 65535, 2**31 - 1, 2**32 - 1]) for _ in range(2)]
    short = [side & 0xFFFF for side in sides]
    data = bytearray(data)
    if data.startswith(b"\x89PNG"):
        data[16:24] = struct.pack(">II", *sides)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif data.startswith(b"GIF"):
        data[6:10] = struct.pack("<HH", *short)
    elif data.startswith(b"BM"):
        data[18:26] = struct.pack("<II", *sides)
    elif data.startswith(b"RIFF"):
        if data[12:16] == b"VP8X":
            data[24:30] = b"".join(struct.pack("<I", side)[:3] for side in sides)
        else:
            data[26:30] = struct.pack("<HH", *short)
    elif data.startswith(b"\xff\xd8"):
        for marker in (b"\xff\xc0", b"\xff\xc2"):
            if (begin := data.find(marker)) > 0:
                data[begin + 5 : begin + 9] = struct.pack(">HH", *short)
    elif data.startswith(b"II"):
        directory = struct.unpack_from("<I", data, 4)[0]
        for entry in range(struct.unpack_from("<H", data, directory)[0]):
            begin = directory + 2 + 12 * entry
            if struct.unpack_from("<H", data, begin)[0] in (256, 257):  # width, height
                data[begin + 2 : begin + 12] = struct.pack("<HII", 4, 1, sides[entry % 2])
    return bytes(data)


MUTATIONS = [
    flip_bits,
    flip_header_bits,
    cut_off,
    cut_out,
    splice,
    insert_noise,
    replace_by_noise,
    resize_header,
    keep,
]


def make_array(rng: random.Random):
    """An array or tensor of a random shape, type and range."""
    shape = [rng.choice([0, 1, 2, 3, 4, 5, 17, 60]) for _ in range(rng.choice([1, 2, 3, 3, 3, 3, 4, 5]))]
    if len(shape) == 3 and rng.random() < 0.7:
        shape[rng.choice([0, 2])] = rng.choice([1, 3, 4])
    dtype = rng.choice(DTYPES)
    low, high = rng.choice([(0, 1), (0, 255), (0, 65535), (-1, 1), (0, 1e6)])
    values = np.random.default_rng(rng.getrandbits(32)).uniform(low, high, shape)
    if values.size and rng.random() < 0.2:
        values.flat[rng.randrange(values.size)] = rng.choice([np.nan, np.inf, -np.inf, -1])
    with np.errstate(all="ignore"):
        array = values.astype(dtype)
    return torch.from_numpy(array) if rng.random() < 0.5 else array


def make_arguments(rng: random.Random, num_images: int) -> dict:
    arguments = {}
    for name, values in {
        "max_slices": [1, 2, 9, 64, 10**9, 0, -3, "9", [6] * num_images, [6] * (num_images + 1), [[6]]],
        "slice_resolution": [14, 28, 100, 336, 1, 0, -1, 33.6],
        "patch_size": [7, 14, 16, 0],
        "max_image_pixels": [None, 1, 1000, 10**6, -1],
        "input_data_format": ["channels_first", "channels_last"],
        "do_convert_rgb": [True, False],
        "do_rescale": [True, False],
        "return_tensors": ["pt", "np"],
    }.items():
        if rng.random() < 0.15:
            arguments[name] = rng.choice(values)
    return {"slice_resolution": rng.choice([14, 56, 336]), **arguments}


def run_case(seed: int, case: int, folder: Path) -> tuple[str, str]:
    """Runs a case; returns what it was, and "read" or "refused"; other errors pass through."""
    rng = random.Random(f"{seed} {case}")
    sound = Image.new("RGB", (rng.randint(1, 50), rng.randint(1, 50)))
    position = rng.randint(0, 1)
    if rng.random() < 0.1:
        kind, image, names = "array", make_array(rng), [f"Image {position}"]
    else:
        file_format, mutate = rng.choice(list(MODES)), rng.choice(MUTATIONS)
        kind = f"{file_format} {mutate.__name__}"
        data = mutate(rng, make_file(rng, file_format))
        path = folder / f"case{case}"
        path.write_bytes(data)
        form = rng.choice(["path", "path", "base64", "data URL", "PIL"])
        encoded = base64.b64encode(data).decode()
        image = {"base64": encoded, "data URL": f"data:image/png;base64,{encoded}"}.get(form, path)
        names = [f"Image {position} ({path})"] if form in ("path", "PIL") else [f"Image {position}"]
        if form == "PIL":
            try:
                image = Image.open(path)
            except Exception:  # what the user would see of PIL, not of us
                image = path
    images = [sound, image] if position else [image, sound]
    arguments = make_arguments(rng, len(images))
    # an argument out of range concerns the whole call, a limit or mode also the sound image
    names += ["`images`"] if getattr(image, "ndim", 0) == 4 else []
    names += [f"`{name}`" for name in arguments] + [f"'{name}'" for name in arguments]
    try:
        out = LlavaUhdV2ImageProcessor()(images, **arguments)
    except (ValueError, StrictDataclassError) as error:
        if not any(name in str(error) for name in names):
            raise AssertionError(f"none of {names} is named in {error!r}") from error
        return kind, "refused"
    patch_size = arguments.get("patch_size", 14)
    for row, image_size in zip(out["pixel_values"], out["image_sizes"], strict=True):
        assert np.isfinite(np.asarray(row)).all()
        assert SlicePlan.from_image_size(image_size, patch_size).num_patches(patch_size) <= len(row)
    return kind, "read"


def work(seed: int, first: int, cases: int, timeout: float) -> None:
    """Runs cases and prints a line of JSON for each, before and after it."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for case in range(first, first + cases):
            print(json.dumps(case), flush=True)
            faulthandler.dump_traceback_later(timeout, exit=True)
            start = time.perf_counter()
            try:
                outcome = run_case(seed, case, Path(folder))
            except Exception as error:
                outcome = "error", f"{type(error).__name__}: {error}"
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps([*outcome, time.perf_counter() - start]), flush=True)
            for file in Path(folder).iterdir():
                file.unlink()


def fuzz(seed: int, first: int, cases: int, timeout: float) -> tuple[collections.Counter, list[str], float]:
    """Runs cases in processes of their own; returns outcomes by kind, what failed, and the longest time in seconds."""
    outcomes: collections.Counter = collections.Counter()
    failures = []
    slowest = 0.0
    end = first + cases
    while first < end:
        options = ["--seed", seed, "--first", first, "--cases", end - first, "--timeout", timeout]
        command = [sys.executable, __file__, "--worker", *map(str, options)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        report, stderr = process.communicate()
        for line in report.splitlines():
            if line.isdigit():
                first = int(line)
                continue
            kind, outcome, seconds = json.loads(line)
            slowest = max(slowest, seconds)
            outcomes[kind, outcome if kind != "error" else "failed"] += 1
            if kind == "error":
                failures.append(f"case {first}: {outcome}")
            first += 1
        if process.returncode:
            failures.append(f"case {first}: the process ended with {process.returncode}: {stderr[-3000:]}")
            first += 1
    return outcomes, failures, slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--timeout", type=float, default=20, help="seconds a case may take")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = arguments.seed, arguments.first, arguments.cases, arguments.timeout
    if arguments.worker:
        work(*settings)
        return
    outcomes, failures, slowest = fuzz(*settings)
    for kind in sorted({kind for kind, _ in outcomes}):
        counts = [f"{outcomes[kind, outcome]:7} {outcome}" for outcome in ("read", "refused", "failed")]
        print(f"{kind:24}", *counts)
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(f"{len(failures)} of {arguments.cases} failed; slowest {slowest:.1f} s, largest process {memory} MiB")
    for failure in failures:
        print(failure)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
