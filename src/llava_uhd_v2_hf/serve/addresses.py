# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Connections to public addresses alone: the address that is checked is the one that is connected to."""

import asyncio
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from httpcore2 import SOCKET_OPTION, AnyIOBackend, AsyncNetworkBackend, AsyncNetworkStream, ConnectError


Address = IPv4Address | IPv6Address
# Of IPv6, what is routed between networks; the tunnels carry an IPv4 address that may be private.
ROUTED = IPv6Network("2000::/3")
TUNNELS = [IPv6Network("2001::/32"), IPv6Network("2002::/16")]


class ForbiddenAddress(ConnectError):
    """A host has an address that must not be connected to."""


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet.

    Private, loopback, link-local, shared, multicast, reserved and unspecified addresses don't, nor do IPv6 addresses
    with an IPv4 address inside.
    """
    if isinstance(address, IPv6Address) and (address not in ROUTED or any(address in net for net in TUNNELS)):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


async def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a host, in the system's order.

    Raises:
        ConnectError: if it has none.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"the host {host!r} has no address ({error})") from error
    return [ip_address(entry[4][0]) for entry in found]


class CheckedBackend(AsyncNetworkBackend):
    """Resolves a host once for each connection, checks every address that it has, and connects to these.

    Args:
        allow: says of an address whether it may be connected to.
    """

    def __init__(self, allow: Callable[[Address], bool] = is_public):
        self.allow = allow
        self.network = AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """A connection to the first address of a host that answers.

        Args:
            host: name or address.
            port: of the host.
            timeout: for each address, in seconds.
            local_address: of the socket.
            socket_options: likewise.

        Raises:
            ForbiddenAddress: if one of its addresses must not be connected to.
            ConnectError: if it has no address, or none answers.
        """
        addresses = await resolve(host, port)
        if not all(map(self.allow, addresses)):
            raise ForbiddenAddress(f"the host {host!r} has an address that is not public")
        for address in addresses[:-1]:
            try:
                return await self.network.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except ConnectError:
                continue
        return await self.network.connect_tcp(str(addresses[-1]), port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """Waits, for so many seconds."""
        await self.network.sleep(seconds)


__all__ = ["CheckedBackend", "ForbiddenAddress", "is_public", "resolve"]
