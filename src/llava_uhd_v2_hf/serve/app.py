# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""The web application: paths, who may use them, and every error in the API's form."""

import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import cache, partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from .documentation import CHAT_BODY, ERROR_RESPONSE, PAGE_HEADERS, describe_api, render_page
from .engine import Piece
from .errors import ApiError
from .parsing import ClientGone, read_body, unless_gone
from .replies import Reply
from .schema import parse_request
from .service import Service


CLIENT_GONE = 499  # as nginx books it; nobody reads it
logger = logging.getLogger(__name__)


def build_app(service: Service) -> FastAPI:
    """The application of a server."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # without FastAPI's own pages, which load scripts from another host
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, responses={"default": ERROR_RESPONSE})
    app.openapi = cache(partial(describe_api, app))  # type: ignore[method-assign]

    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: ApiError) -> Response:
        service.metrics.requests.labels(error.status).inc()
        service.metrics.refused.labels(error.code or "none").inc()
        logger.info("refused: %d, %s", error.status, error.code)
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> Response:
        refusal = ApiError(error.status_code, f"{error.detail}: {request.method} {request.url.path[:200]}")
        response = await refuse(request, refusal)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientGone)
    async def drop(request: Request, error: ClientGone) -> Response:
        service.metrics.requests.labels(CLIENT_GONE).inc()
        return Response(status_code=CLIENT_GONE)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return await refuse(request, ApiError(500, "The server failed; its log says why.", code="internal_error"))

    @app.get("/", include_in_schema=False)
    @app.get("/v1", include_in_schema=False)
    async def start() -> Response:
        return RedirectResponse("docs")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        name = service.name if service.api_key is None else None
        return HTMLResponse(render_page(app.openapi(), str(request.base_url), name), headers=PAGE_HEADERS)

    @app.get("/health", summary="200, or 503 when no more requests are answered")
    async def health() -> Response:
        alive = service.engine.alive
        return JSONResponse({"status": "ok" if alive else "stopping"}, 200 if alive else 503)

    @app.get("/metrics", summary="Counters for Prometheus", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        check_key(request, service.api_key)
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models", summary="The model that is served")
    async def models(request: Request) -> Any:
        check_key(request, service.api_key)
        return {"object": "list", "data": [describe_model(service)]}

    @app.get("/v1/models/{name:path}", summary="The same, by its name")
    async def model(request: Request, name: str) -> Any:
        check_key(request, service.api_key)
        service.check_name(name)
        return describe_model(service)

    @app.post("/v1/chat/completions", summary="Answers a conversation", openapi_extra={"requestBody": CHAT_BODY})
    async def chat_completions(request: Request) -> Response:
        check_key(request, service.api_key)
        return await complete(service, request)

    return app


def check_key(request: Request, api_key: str | None) -> None:
    """Whether a client has the key.

    Raises:
        ApiError: 401, if there is one and it has not.
    """
    sent = request.headers.get("authorization", "").removeprefix("Bearer ")
    if api_key is not None and not hmac.compare_digest(sent.encode(), api_key.encode()):
        raise ApiError(
            401, "The key in the header `Authorization: Bearer ...` is not this server's.", code="invalid_api_key"
        )


def describe_model(service: Service) -> dict[str, Any]:
    """The served model, as the API lists it."""
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "llava-uhd-v2-hf"}


async def complete(service: Service, request: Request) -> Response:
    """Answers one request, whole or as a stream; it is in hand until its last byte.

    Raises:
        ApiError: if it is refused or fails before its answer begins.
        ClientGone: if the client goes away before.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(service.admitted())
        with service.stoppable():
            chat = parse_request(await read_body(request, service.limits))
            service.check_name(chat.model)
            with service.engine.expecting():
                prompt = await unless_gone(request, service.prompts.make(chat))
        reply = Reply(service.name, prompt.num_tokens)
        pieces = await stack.enter_async_context(aclosing(service.answer(chat, prompt, reply.id)))
        headers = {"X-Request-Id": reply.id}
        if chat.stream:
            usage = bool(chat.stream_options and chat.stream_options.include_usage)
            first = await unless_gone(request, anext(pieces))  # what fails at once fails with a status
            events = reply.events(preceded_by(first, pieces), usage)
            response: Response = EventStream(events, stack.pop_all(), headers)
        else:
            text, last = await unless_gone(request, join(pieces))
            response = JSONResponse(reply.whole(text, last), headers=headers)
    service.metrics.requests.labels(200).inc()
    return response


async def join(pieces: AsyncIterator[Piece]) -> tuple[str, Piece]:
    """The text of all pieces, and the last one."""
    text = ""
    async for piece in pieces:
        text += piece.text
    return text, piece


async def preceded_by(first: Piece, pieces: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    """The first piece, and then the others."""
    yield first
    async for piece in pieces:
        yield piece


class EventStream(StreamingResponse):
    """A response of server-sent events.

    Args:
        events: as they are sent.
        held: given back after the last, or when the client goes away.
        headers: of the response.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], held: AsyncExitStack, headers: dict[str, str]):
        super().__init__(events, headers=headers)
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events.

        Args:
            scope: of the connection.
            receive: of the connection.
            send: of the connection.
        """
        async with self.held:
            await super().__call__(scope, receive, send)


__all__ = ["EventStream", "build_app", "check_key", "complete", "describe_model", "join", "preceded_by"]
