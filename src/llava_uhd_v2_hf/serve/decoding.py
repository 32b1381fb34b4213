# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Decodes images and cuts them into views, each request in a process of its own with limits of time and memory.

The processes are forked by a fork server that has imported this module and runs nothing else: one starts within
milliseconds and returns all its memory at its end.
"""

import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from anyio import CapacityLimiter, from_thread, to_thread
from PIL import Image

from ..model.image_loading_llava_uhd_v2 import open_image, read_rgb
from ..model.image_processing_llava_uhd_v2 import LlavaUhdV2ImageProcessor
from .limits import Limits


FORMATS = ("PNG", "JPEG", "WEBP")
DECODERS = 4  # processes at a time
CLIENT_DECODERS = 2  # of one client
SCANS = 100  # of a JPEG; encoders write about ten, and each may take as long as the whole image
NICENESS = 5  # the model's thread and the event loop come first
START_SECONDS = 60.0  # for a process to start; longer than the fork server's own start
POLL_SECONDS = 0.05  # between looks at whether a request was cancelled
# in the data of a scan, 0xFF is followed by 0, by a restart mark (D0 to D7) or by fill bytes
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["__main__", __name__])


@dataclass(frozen=True)
class Damage:
    """What is wrong with an image.

    Args:
        message: says what it was and what to do.
        index: of the image in its request; None if it is not known.
    """

    message: str
    index: int | None = None


@dataclass(frozen=True)
class Work:
    """Images of a request, and how they are decoded.

    Args:
        image_processor: cuts the images.
        files: contents of the image files.
        max_slices: of each image.
        max_pixels: height * width of each image.
        seconds: CPU time, in seconds.
        max_bytes: memory, in bytes.
    """

    image_processor: LlavaUhdV2ImageProcessor
    files: Sequence[bytes]
    max_slices: Sequence[int]
    max_pixels: int
    seconds: float
    max_bytes: int


Views = dict[str, np.ndarray]


class Decoders:
    """Runs a limited number of decoding processes.

    Args:
        image_processor: cuts the images.
        limits: of requests.
    """

    def __init__(self, image_processor: LlavaUhdV2ImageProcessor, limits: Limits):
        self.image_processor = image_processor
        self.limits = limits
        self._all = CapacityLimiter(DECODERS)

    async def decode(self, files: Sequence[bytes], max_slices: Sequence[int], own: CapacityLimiter) -> Views | Damage:
        """Decodes and cuts the images of a request; the process is killed if the caller is cancelled.

        Args:
            files: contents of the image files.
            max_slices: of each image.
            own: limiter of the client, see [`CLIENT_DECODERS`].

        Returns:
            `pixel_values`, (i, p_max, 3 * patch * patch), and `image_sizes`, (i, 6); or what is wrong.
        """
        limits = self.limits
        work = Work(
            self.image_processor, files, max_slices, limits.image_pixels, limits.decode_seconds, limits.decode_bytes
        )
        async with own:
            return await to_thread.run_sync(self._run, work, limiter=self._all)

    def _run(self, work: Work) -> Views | Damage:
        receiver, sender = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=run_work, args=(sender, work), name="decoder", daemon=True)
        with receiver:
            try:
                with sender:
                    process.start()
                for seconds in (START_SECONDS, work.seconds):
                    if not _await_message(receiver, seconds):
                        return Damage(f"decoding takes longer than {seconds:g} seconds; save it again, or smaller.")
                    result = receiver.recv()
                return result
            except (EOFError, OSError):
                return Damage("decoding ended early: it takes too much time or memory; save it again, or smaller.")
            finally:
                if process.pid is not None:
                    process.kill()
                    process.join()


def _await_message(receiver: Connection, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not receiver.poll(POLL_SECONDS):
        from_thread.check_cancelled()
        if time.monotonic() > end:
            return False
    return True


def run_work(sender: Connection, work: Work) -> None:
    """Decodes images in a process of its own.

    Args:
        sender: gets True at the start, and then the result of [`decode_images`].
        work: what to do.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the server ends this process
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICENESS)
    torch.set_num_threads(1)
    limit_process(work.seconds, work.max_bytes)
    with sender:
        sender.send(True)
        sender.send(decode_images(work))


def limit_process(seconds: float, max_bytes: int) -> None:
    """Limits what this process may take from now on: beyond, it gets a MemoryError or is killed.

    Args:
        seconds: CPU time; the limit is in whole seconds.
        max_bytes: memory, besides what is mapped already; not limited outside Linux.
    """
    cpu = int(sum(os.times()[:2]) + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + max_bytes,) * 2)


def decode_images(work: Work) -> Views | Damage:
    """Decodes and cuts images in this process.

    Returns:
        `pixel_values`, (i, p_max, 3 * patch * patch), and `image_sizes`, (i, 6); or what is wrong.
    """
    images = []
    for index, data in enumerate(work.files):
        try:
            images.append(decode_image(data, work.image_processor, work.max_pixels))
        except ValueError as error:
            return Damage(str(error), index)
        except MemoryError:
            return Damage("decoding takes too much memory; make it smaller.", index)
    try:
        return dict(work.image_processor(images, max_slices=list(work.max_slices), return_tensors="np"))
    except ValueError as error:
        return Damage(str(error))
    except MemoryError:
        return Damage("cutting takes too much memory; make it smaller.")


def decode_image(data: bytes, image_processor: LlavaUhdV2ImageProcessor, max_pixels: int) -> Image.Image:
    """Decodes an image in this process, to RGB.

    Args:
        data: contents of the file.
        image_processor: says what becomes of transparency.
        max_pixels: height * width of the image, checked before it is decoded.

    Raises:
        ValueError: if it is no PNG, JPEG or WebP, too large, damaged, or a JPEG of too many scans.
    """
    check_scans(data)
    return read_rgb(open_image(data, formats=FORMATS), max_pixels=max_pixels, alpha=image_processor.alpha)


def check_scans(data: bytes) -> None:
    """Checks the number of scans of a JPEG file, without decoding it.

    Raises:
        ValueError: if there are more than [`SCANS`].
    """
    if data.startswith(b"\xff\xd8") and sum(kind == 0xDA for kind in jpeg_markers(data)) > SCANS:
        raise ValueError(f"it is a JPEG of more than {SCANS} scans; save it again.")


def jpeg_markers(data: bytes) -> Iterator[int]:
    """Yields the second bytes of the markers of a JPEG file, without those inside of segments."""
    place = 2
    while found := MARKER.search(data, place):
        kind, place = found[1][0], found.end()
        yield kind
        if kind not in (0x01, 0xD8, 0xD9):  # all others have a length, of two bytes and with them
            place += max(2, int.from_bytes(data[place : place + 2], "big"))


__all__ = [
    "CLIENT_DECODERS",
    "Damage",
    "Decoders",
    "Views",
    "Work",
    "check_scans",
    "decode_image",
    "decode_images",
    "jpeg_markers",
    "limit_process",
    "run_work",
]
