# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Images behind URLs: only public addresses are connected to, at every hop, and the address is the checked one."""

import asyncio
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from threading import Thread

import pytest
from serve_clients import ServerProcess, as_body, ask, image_part  # noqa: E402

from llava_uhd_v2_hf.serve import addresses
from llava_uhd_v2_hf.serve.addresses import CheckedBackend, is_public
from llava_uhd_v2_hf.serve.downloads import Downloader
from llava_uhd_v2_hf.serve.prompts import decode_data_url


PUBLIC = ["1.1.1.1", "93.184.216.34", "172.15.0.1", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450:4001::1"]
NOT_PUBLIC = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.0.9", "169.254.169.254", "172.16.0.1"),
    *("172.31.255.255", "192.0.0.1", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1"),
    *("64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::1", "fc00::1", "fd00:ec2::254", "fe80::1"),
    *("fe80::1%1", "fec0::1", "ff02::1", "ff0e::1"),
]
# names and ways of writing that lead to this machine, or to its network
PRIVATE_HOSTS = [
    *("localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.1", "127.0.1", "0x7f000001", "0x7f.1", "2130706433"),
    *("0177.0.0.1", "017700000001", "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    *("[0:0:0:0:0:ffff:127.0.0.1]", "[::127.0.0.1]", "[fe80::1]", "[fe80::1%25lo]", "[fd00:ec2::254]"),
    *("169.254.169.254", "10.0.0.1", "192.168.0.1", "100.100.100.200", "224.0.0.1", "255.255.255.255"),
    *("127.0.0.1.", "%31%32%37.0.0.1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address):
    assert not is_public(ip_address(address))


class Pages(ThreadingHTTPServer):
    """Listens on all addresses of this machine; `paths` are those that were asked for, `routes` where they lead."""

    daemon_threads = True

    def __init__(self):
        self.paths, self.routes, self.connections = [], {}, 0
        super().__init__(("0.0.0.0", 0), Page)
        Thread(target=self.serve_forever, daemon=True).start()

    def verify_request(self, *args):
        self.connections += 1
        return True


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append((self.headers["Host"], self.path))
        target = self.server.routes.get(self.path)
        self.send_response(302 if target else 200)
        if target:
            self.send_header("Location", target)
        self.end_headers()
        self.wfile.write(b"the file")

    def log_message(self, *args):
        pass


@pytest.fixture
def pages():
    server = Pages()
    yield server
    server.shutdown()
    server.server_close()


def fetch(url, allow=is_public, seconds=20):
    async def run():
        async with asyncio.timeout(seconds):
            return await Downloader(CheckedBackend(allow)).fetch(url, max_bytes=100)

    return asyncio.run(run())


def first_only(address):
    return address == ip_address("127.0.0.1")


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_no_way_of_writing_an_address_leads_here(pages, host):
    with pytest.raises(ValueError, match="not public|no address|can't have|netloc|IPv6|valid"):
        fetch(f"http://{host}:{pages.server_port}/a.png")
    assert pages.connections == 0


@pytest.mark.parametrize(
    "start",
    [
        "data:image/png;base64,",
        "DATA:image/png;base64,",
        "Data:Image/PNG;Base64,",
        "data:;base64,",
        "data:image/png;charset=utf-8;base64,",
        "data:application/octet-stream;base64,",
    ],
)
def test_data_urls(start):
    assert decode_data_url(f"{start}AA\nEC") == b"\0\1\2"


@pytest.mark.parametrize(
    "url",
    [
        *("data:", "data:,", "data:AAEC", "data:,AAEC", "data:base64,AAEC", "data:image/png,AAEC", "data:;base64"),
        *("data:text/html;base64,AAEC", "data:image/png;base64;charset=utf-8,AAEC", "data:image;base64,AAEC"),
    ],
)
def test_what_is_no_data_url_of_an_image(url):
    with pytest.raises(ValueError, match="must begin like `data:image/png;base64,`"):
        decode_data_url(url)


@pytest.mark.parametrize("scheme", ["http", "HTTP", "Http"])
def test_schemes_have_no_case(pages, scheme):
    pages.routes = {"/a": f"{scheme}://127.0.0.1:{pages.server_port}/b"}
    assert fetch(f"{scheme}://127.0.0.1:{pages.server_port}/a", first_only) == b"the file"
    with pytest.raises(ValueError, match="not public"):
        fetch(f"{scheme}://127.0.0.1:{pages.server_port}/a")


@pytest.mark.parametrize(
    "host", ["localhost", "127.1", "0x7f000001", "2130706433", "[::ffff:127.0.0.1]", "0177.0.0.1"]
)
def test_these_would_lead_here(pages, host):
    """The test above tests something."""
    assert fetch(f"http://{host}:{pages.server_port}/a.png", lambda address: True) == b"the file"


def test_a_server_refuses_private_urls(tiny_checkpoint, pages):
    with ServerProcess(tiny_checkpoint) as server:
        for host in ("localhost", "127.0.0.1", "[::1]", "2130706433"):
            request = ask(image_part(f"http://{host}:{pages.server_port}/a.png"))
            status, value, _ = server.send(as_body(server, request))
            assert status == 400 and "not public" in value["error"]["message"]
    assert pages.connections == 0


def test_every_hop_is_checked(pages):
    port = pages.server_port
    pages.routes = {"/a": "/b", "/b": f"http://127.0.0.1:{port}/c", "/bad": f"http://127.0.0.2:{port}/secret"}
    assert fetch(f"http://127.0.0.1:{port}/a", first_only) == b"the file"
    assert [path for _, path in pages.paths] == ["/a", "/b", "/c"]
    with pytest.raises(ValueError, match="'127.0.0.2' has an address that is not public"):
        fetch(f"http://127.0.0.1:{port}/bad", first_only)
    assert pages.connections == 4 and "/secret" not in [path for _, path in pages.paths]


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "javascript:1", "http://[::1", "data:,x"]
)
def test_redirects_to_what_is_no_url(pages, target):
    pages.routes = {"/a": target}
    with pytest.raises(ValueError):
        fetch(f"http://127.0.0.1:{pages.server_port}/a", first_only)
    assert len(pages.paths) == 1


def test_redirects_without_end(pages):
    pages.routes = {"/a": "/a"}
    with pytest.raises(ValueError, match="redirects more than 5 times"):
        fetch(f"http://127.0.0.1:{pages.server_port}/a", first_only)
    assert len(pages.paths) == 6


def answers(monkeypatch, *replies):
    """Makes names resolve to one list of addresses after the other."""
    calls = []

    async def resolve(host, port):
        calls.append(host)
        return [ip_address(address) for address in replies[len(calls) - 1]]

    monkeypatch.setattr(addresses, "resolve", resolve)
    return calls


def test_a_name_that_changes_its_address_is_asked_for_once(pages, monkeypatch):
    calls = answers(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    url = f"http://rebinding.test:{pages.server_port}/a"
    assert fetch(url, first_only) == b"the file"
    assert calls == ["rebinding.test"] and pages.paths == [(f"rebinding.test:{pages.server_port}", "/a")]
    with pytest.raises(ValueError, match="not public"):  # the second answer is checked again
        fetch(url, first_only)
    assert pages.connections == 1


def test_one_private_address_among_others_is_enough(pages, monkeypatch):
    answers(monkeypatch, ["127.0.0.1", "127.0.0.2"])
    with pytest.raises(ValueError, match="not public"):
        fetch(f"http://mixed.test:{pages.server_port}/a", first_only)
    assert pages.connections == 0


def test_the_next_address_is_tried(pages, monkeypatch):
    answers(monkeypatch, ["::1", "127.0.0.1"])  # it doesn't listen on the first
    assert fetch(f"http://two.test:{pages.server_port}/a", lambda address: True) == b"the file"


def test_proxies_of_the_environment_are_not_used(pages, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{pages.server_port}")
    with pytest.raises(ValueError, match="has no address"):
        fetch("http://nobody.invalid/a", lambda address: True)
    assert pages.connections == 0
