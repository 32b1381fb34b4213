# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Reading a request's body within limits, and noticing that its client has gone."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from .errors import ApiError
from .limits import Limits


T = TypeVar("T")


class ClientGone(Exception):
    """The client has closed its connection; there is nobody to answer."""


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request.

    Raises:
        ApiError: 413 if it is too long, 408 if it takes too long to arrive, 415 if it is not JSON by its header.
        ClientGone: if the client went away before its end.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "The header `Content-Type` must be `application/json`.", code="unsupported_media_type")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limits.request_bytes:
        raise _too_long(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.request_bytes:
                    raise _too_long(limits)
    except TimeoutError:
        raise ApiError(
            408, f"The body didn't arrive within {limits.body_seconds:g} seconds.", code="request_timeout"
        ) from None
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)


def _too_long(limits: Limits) -> ApiError:
    return ApiError(
        413, f"The request has more than {limits.request_bytes} bytes; send smaller images.", code="request_too_large"
    )


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of the work, which is cancelled when the client goes away.

    Args:
        request: whose body was read.
        work: done for it.

    Raises:
        ClientGone: if the client went away before.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


__all__ = ["ClientGone", "read_body", "unless_gone"]
