# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Loading a model and serving it until the process is told to stop."""

import asyncio
import copy
import logging
import signal
import socket
import time
from pathlib import Path

import uvicorn
from transformers import AutoProcessor

from ..inference.checkpoints import check_checkpoint
from ..inference.loading import load_network
from ..model.modeling_llava_uhd_v2 import LlavaUhdV2ForConditionalGeneration
from .addresses import CheckedBackend, is_public
from .app import build_app
from .downloads import Downloader
from .engine import Engine
from .limits import Limits
from .metrics import Metrics
from .prompts import PromptMaker
from .service import Service


CANCELLING_SECONDS = 5  # for the last errors to reach their clients
logger = logging.getLogger(__name__)


class GracefulServer(uvicorn.Server):
    """Told to stop, lets the requests in hand come to their end, for a limited time.

    Args:
        config: of uvicorn.
        engine: answers the requests.
        stop_seconds: time for them, in seconds.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, stop_seconds: float):
        super().__init__(config)
        self.engine = engine
        self.stop_seconds = stop_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; requests that are not answered in time end with an error.

        Args:
            sockets: on which it listens.
        """
        asyncio.get_running_loop().call_later(self.stop_seconds, self.engine.close)
        await super().shutdown(sockets)


def serve(
    model: str,
    host: str,
    port: int,
    limits: Limits,
    *,
    name: str | None = None,
    api_key: str | None = None,
    private_urls: bool = False,
) -> None:
    """Serves a model until SIGINT or SIGTERM.

    Args:
        model: folder or Hub id of a checkpoint or an adapter.
        host: name or address to listen on.
        port: likewise; 0 for any that is free.
        limits: of requests.
        name: that clients call the model by; by default the folder's, or the Hub id.
        api_key: what clients must send.
        private_urls: whether images may be fetched from addresses that are not public.

    Raises:
        OSError: if the address can't be listened on, or the model can't be read.
        ValueError: if there is no such model.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    check_checkpoint(model)
    listener = listen(host, port)
    service = build_service(load_folded(model), model, limits, private_urls)
    service.name, service.api_key = name or default_name(model), api_key
    config = uvicorn.Config(
        build_app(service),
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(limits.stop_seconds) + CANCELLING_SECONDS,
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn stops by them, and sends them again when it has
        signal.signal(number, lambda number, frame: None)
    address, chosen = listener.getsockname()[:2]
    logger.info("Serving %s on http://%s:%d/v1", service.name, f"[{address}]" if ":" in address else address, chosen)
    GracefulServer(config, service.engine, limits.stop_seconds).run(sockets=[listener])
    service.engine.close()
    service.engine.join(CANCELLING_SECONDS)


def listen(host: str, port: int) -> socket.socket:
    """A socket on an address.

    Raises:
        OSError: naming the address, if it is in use or there is no such one.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        raise OSError(f"Port {port} of {host} can't be listened on: {error}") from error


def load_folded(model: str) -> LlavaUhdV2ForConditionalGeneration:
    """The model on the accelerator, if there is one, with the projector's weights multiplied once for all requests."""
    network = load_network(model)
    try:
        network.fold_projector()
    except ValueError as error:
        logger.info("Every batch multiplies the projector's weights anew: %s", error)
    return network


def build_service(
    network: LlavaUhdV2ForConditionalGeneration, model: str, limits: Limits, private_urls: bool
) -> Service:
    """What answers requests, started.

    Args:
        network: the model.
        model: folder or Hub id of its processor.
        limits: of requests.
        private_urls: whether images may be fetched from addresses that are not public.
    """
    processor = AutoProcessor.from_pretrained(model)
    backend = CheckedBackend((lambda address: True) if private_urls else is_public)
    context = min(network.config.text_config.max_position_embeddings, processor.tokenizer.model_max_length)
    metrics = Metrics()
    return Service(
        name=default_name(model),
        created=int(time.time()),
        prompts=PromptMaker(processor, context, limits, Downloader(backend)),
        engine=Engine(network, copy.deepcopy(processor.tokenizer), limits.batch, metrics),
        metrics=metrics,
        limits=limits,
    )


def default_name(model: str) -> str:
    """What clients call a model by: the last part of its folder, or its Hub id."""
    return Path(model).resolve().name if Path(model).is_dir() else model


__all__ = ["GracefulServer", "build_service", "default_name", "listen", "load_folded", "serve"]
