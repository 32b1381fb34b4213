# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""`/`, `/docs` and `/openapi.json`: complete, without other hosts, and without what a key protects."""

import json
import re
import shlex
from html import unescape

import pytest
from fastapi.testclient import TestClient

from llava_uhd_v2_hf.serve.app import build_app
from llava_uhd_v2_hf.serve.limits import Limits
from llava_uhd_v2_hf.serve.schema import ChatRequest
from llava_uhd_v2_hf.serve.server import build_service, load_folded


NAME = "org/it's <b>tiny</b> $(date)"


@pytest.fixture(scope="module")
def service(talker):
    service = build_service(load_folded(str(talker)), str(talker), Limits(), private_urls=False)
    service.name = NAME
    yield service
    service.engine.close()
    service.engine.join(20)


@pytest.fixture(params=[None, "secret"], ids=["open", "with a key"])
def client(service, request):
    service.api_key = request.param
    return TestClient(build_app(service))  # not entered: its end would close the engine


def example_of(page):
    """The arguments of the page's command, as a shell gets them."""
    command = unescape(re.search(r"<pre>(.*)</pre>", page.text, re.DOTALL)[1])
    return shlex.split(command.replace("\\\n", " "))


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/"])
def test_the_addresses_that_people_open_lead_to_the_page(client, path):
    page = client.get(path)
    assert (
        page.status_code == 200 and page.url.path == "/docs" and page.headers["content-type"].startswith("text/html")
    )


def test_the_page_loads_nothing(client):
    page = client.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert not re.search(r"<script|<link|<img|<iframe|src=|@import|url\(", page.text)
    assert re.findall(r'href="([^"]*)"', page.text) == ["openapi.json"]


def test_every_endpoint_is_described(client):
    paths = client.get("/openapi.json").json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert described == {
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{name}"),
        ("POST", "/v1/chat/completions"),
    }
    page = client.get("/docs").text
    assert all(f"<code>{method} {path}</code>" in page for method, path in described)
    assert all(f"<code>{name}</code>" in page for name in ChatRequest.model_fields)


def test_the_schema_says_what_is_taken(client):
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references == {"ChatRequest", "Message", "TextPart", "ImagePart", "ImageURL", "StreamOptions", "Error"}
    assert references == schemas.keys()
    fields, chat = schemas["ChatRequest"]["properties"], ChatRequest.model_fields
    assert fields.keys() == chat.keys() and schemas["ChatRequest"]["required"] == ["model", "messages"]
    assert fields["max_tokens"]["anyOf"][0] == {"type": "integer", "minimum": 1, "exclusiveMaximum": 2**63}
    text, texts, null = fields["stop"]["anyOf"]
    assert (text["type"], texts["type"], texts["maxItems"], null["type"]) == ("string", "array", 4, "null")
    text, parts = schemas["Message"]["properties"]["content"]["anyOf"]
    assert (text["type"], parts["type"], parts["minItems"]) == ("string", "array", 1)
    error = client.post("/v1/chat/completions", json={}, headers={"Authorization": "Bearer secret"}).json()
    assert schemas["Error"]["properties"]["error"]["properties"].keys() == error["error"].keys()


def test_the_example_is_answered(client, service):
    command, url, *options = example_of(client.get("/docs"))
    headers = dict(value.split(": ") for option, value in zip(options, options[1:]) if option == "-H")
    body = json.loads(options[options.index("-d") + 1])
    assert command == "curl" and url == "http://testserver/v1/chat/completions"
    if service.api_key is None:
        assert body["model"] == NAME
    else:
        assert (body["model"], headers["Authorization"]) == ("MODEL", "Bearer $API_KEY")
        body["model"], headers["Authorization"] = NAME, f"Bearer {service.api_key}"
    answer = client.post(url, headers=headers, json=body)
    assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] > 0


def test_nothing_that_a_key_protects_is_shown(client, service):
    texts = [client.get(path).text for path in ("/", "/docs", "/openapi.json")]
    assert not any("secret" in text or "<b>tiny" in text for text in texts)
    shown = ["tiny" in unescape(text) for text in texts]
    assert shown == ([True, True, False] if service.api_key is None else [False] * 3)
    for path in ("/metrics", "/v1/models", f"/v1/models/{NAME}"):
        assert client.get(path).status_code == (200 if service.api_key is None else 401)


@pytest.mark.parametrize("host", ['a"><script>alert(1)</script>', "a;date", "$(date)", "a'b", "example.com:80", ""])
def test_a_host_is_only_text(client, host):
    page = client.get("/docs", headers={"Host": host})
    assert page.status_code == 200 and "<script" not in page.text
    arguments = example_of(page)
    assert arguments[0] == "curl" and arguments[1].endswith("/v1/chat/completions") and arguments[2] == "-H"
