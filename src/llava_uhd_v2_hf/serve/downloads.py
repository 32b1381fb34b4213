# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Images behind http(s) URLs, of limited size and within a limited time, from public addresses."""

from contextlib import aclosing
from urllib.parse import urljoin, urlsplit

from httpcore2 import (
    AsyncConnectionPool,
    AsyncNetworkBackend,
    ConnectError,
    NetworkError,
    ProtocolError,
    Response,
    TimeoutException,
)


REDIRECTS = 5
HEADERS = [(b"User-Agent", b"llava-uhd-v2-hf"), (b"Accept", b"image/*"), (b"Accept-Encoding", b"identity")]


class Downloader:
    """Fetches files; it keeps no connection, cookie or proxy.

    Args:
        backend: makes the connections, and refuses those that must not be made.
    """

    def __init__(self, backend: AsyncNetworkBackend):
        self.backend = backend

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """The file at a URL, or where it redirects to, of so many bytes at most; the caller limits the time.

        Raises:
            ValueError: if the URL is none of http or https, its host is refused or doesn't answer as it should, or
                the file is too large.
        """
        try:
            async with AsyncConnectionPool(network_backend=self.backend, max_keepalive_connections=0) as pool:
                for _ in range(REDIRECTS + 1):
                    _check_url(url)
                    host = urlsplit(url).netloc.encode()
                    async with pool.stream("GET", url, headers=[(b"Host", host), *HEADERS]) as response:
                        target = _redirect_of(response)
                        if target is None:
                            return await _read(response, max_bytes)
                    url = urljoin(url, target)
        except (ConnectError, NetworkError, ProtocolError, TimeoutException) as error:
            raise ValueError(f"downloading it failed ({error or type(error).__name__}).") from error
        raise ValueError(f"it redirects more than {REDIRECTS} times.")


async def _read(response: Response, max_bytes: int) -> bytes:
    if response.status != 200:
        raise ValueError(f"downloading it failed (status {response.status}).")
    data = bytearray()
    async with aclosing(response.aiter_stream()) as chunks:
        async for chunk in chunks:
            data += chunk
            if len(data) > max_bytes:
                raise ValueError(f"it is larger than the {max_bytes} bytes left for it; make it smaller.")
    return bytes(data)


def _check_url(url: str) -> None:
    parts = urlsplit(url)  # raises a ValueError of its own
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is neither an http(s) URL with a host nor a data URL.")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("its URL has characters that a URL can't have; percent-encode them.")
    if parts.username is not None:
        raise ValueError("its URL has a user name; that is not supported.")
    if parts.port == 0:  # out of range is a ValueError of its own
        raise ValueError("its URL has port 0.")


def _redirect_of(response: Response) -> str | None:
    if response.status not in (301, 302, 303, 307, 308):
        return None
    for name, value in response.headers:
        if name.lower() == b"location":
            return value.decode("latin-1")
    return None


__all__ = ["Downloader"]
