# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The API's description: `/openapi.json`, and a page without scripts at `/docs`, which needs no other host."""

import json
import shlex
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from .schema import ChatRequest


SCHEMAS = "#/components/schemas/"
CHAT_BODY = {"required": True, "content": {"application/json": {"schema": {"$ref": f"{SCHEMAS}ChatRequest"}}}}
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The place of what was wrong in the request."},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ERROR_RESPONSE = {"description": "Error", "content": {"application/json": {"schema": {"$ref": f"{SCHEMAS}Error"}}}}
# nothing is loaded or run, whatever a name or a host is written like
PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
# a PNG of 64 x 64 pixels
RED_SQUARE = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAAA1BMVEX/AAAZ4gk3AAAAD0lEQVR42mNgGAWjgHwAAAJA"
    "AAHgTR1EAAAAAElFTkSuQmCC"
)
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>LLaVA-UHD v2 server</title>
<style>
body {{ font-family: sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.5 }}
td {{ padding: 0.2rem 1rem 0.2rem 0; vertical-align: top }}
pre {{ background: #f2f2f2; color: #111; padding: 1rem; overflow-x: auto }}
</style>
<h1>LLaVA-UHD v2 server</h1>
<p>OpenAI's chat completions. Base URL of clients: <code>{base}v1</code>.
Schema: <a href="openapi.json">openapi.json</a>.</p>
<h2>Endpoints</h2>
<table>
{endpoints}
</table>
<p>Parameters of chat completions: {parameters}.</p>
<h2>Example</h2>
<pre>{example}</pre>
{note}
</html>
"""
KEY_NOTE = (
    "<p>This server needs a key, in <code>API_KEY</code> here. <code>MODEL</code> is the <code>id</code> that "
    "<code>GET /v1/models</code> lists.</p>"
)


def describe_api(app: FastAPI) -> dict[str, Any]:
    """Returns the OpenAPI document of an application. It has nothing of the model that is served."""
    document = get_openapi(title="LLaVA-UHD v2 server", version="1", routes=app.routes)
    request = ChatRequest.model_json_schema(ref_template=f"{SCHEMAS}{{model}}")
    document["components"] = {"schemas": {**request.pop("$defs"), "ChatRequest": request, "Error": ERROR}}
    return document


def render_page(document: dict[str, Any], base: str, model: str | None) -> str:
    """Returns the page with the endpoints and an example.

    Args:
        document: OpenAPI's.
        base: URL of the server, with a slash at its end.
        model: the name of the model; None if only clients with a key may know it.
    """
    rows = [
        f"<tr><td><code>{method.upper()} {escape(path)}</code></td><td>{escape(operation['summary'])}</td></tr>"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    return PAGE.format(
        base=escape(base),
        endpoints="\n".join(rows),
        parameters=", ".join(f"<code>{name}</code>" for name in ChatRequest.model_fields),
        example=escape(_example(base, model)),
        note=KEY_NOTE if model is None else "",
    )


def _example(base: str, model: str | None) -> str:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{RED_SQUARE}"}}
    content = [{"type": "text", "text": "What colour is this?"}, image]
    body = {"model": model or "MODEL", "messages": [{"role": "user", "content": content}], "max_tokens": 20}
    lines = [f"curl {shlex.quote(f'{base}v1/chat/completions')}", "-H 'Content-Type: application/json'"]
    if model is None:
        lines.append('-H "Authorization: Bearer $API_KEY"')
    return " \\\n    ".join([*lines, f"-d {shlex.quote(json.dumps(body, indent=2))}"])


__all__ = ["CHAT_BODY", "ERROR_RESPONSE", "PAGE_HEADERS", "describe_api", "render_page"]
