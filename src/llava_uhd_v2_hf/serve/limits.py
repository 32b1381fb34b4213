# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a server takes from its clients, and no more."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """What clients may ask for; beyond, a request is refused.

    Args:
        request_bytes: longest body of a request, in bytes.
        images: of a request.
        image_pixels: height * width of an image.
        prompt_tokens: of the prompt, images included; None for what the model reads.
        answer_tokens: longest answer, in tokens, and its length where a request doesn't say.
        batch: requests that are answered together.
        requests: requests at a time: being read, prepared, waiting or being answered.
        body_seconds: time for the body of a request to arrive, in seconds.
        download_seconds: time for all images of a request to arrive from their URLs, in seconds.
        download_bytes: all images of a request that are behind URLs, in bytes.
        decode_seconds: time for all images of a request to be decoded and cut, in seconds.
        decode_bytes: memory for that, in bytes.
        stop_seconds: from the signal to stop to the end of the process, in seconds.

    Raises:
        ValueError: if one is not positive.
    """

    request_bytes: int = 32 << 20
    images: int = 8
    image_pixels: int = 25_000_000
    prompt_tokens: int | None = None
    answer_tokens: int = 1024
    batch: int = 8
    requests: int = 64
    body_seconds: float = 30.0
    download_seconds: float = 15.0
    download_bytes: int = 32 << 20
    decode_seconds: float = 10.0
    decode_bytes: int = 2 << 30
    stop_seconds: float = 30.0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"The limit `{field.name}` must be positive, got {value}.")


__all__ = ["Limits"]
