# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Loading a model and serving it until the process is told to stop."""

import asyncio
import copy
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import socket
import time
from pathlib import Path
from types import FrameType

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


SIGNALS = (signal.SIGINT, signal.SIGTERM)
ERROR_SECONDS = 1.0  # of the time for stopping, kept for the last errors to reach their clients
logger = logging.getLogger(__name__)


class GracefulServer(uvicorn.Server):
    """Finishes the requests in flight when it is told to stop, within a limited time.

    Args:
        config: of uvicorn.
        service: answers the requests.
        stop_seconds: from the signal to the end of the process.
    """

    def __init__(self, config: uvicorn.Config, service: Service, stop_seconds: float):
        super().__init__(config)
        self.service = service
        self.stop_seconds = stop_seconds
        self._deadline = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to stop; SIGALRM ends the process at the deadline.

        Args:
            sig: the signal.
            frame: not used.
        """
        if not self.should_exit:
            self._deadline = time.monotonic() + self.stop_seconds
            signal.setitimer(signal.ITIMER_REAL, self.stop_seconds)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shuts uvicorn down; requests that are not answered in time end with an error.

        Args:
            sockets: on which it listens.
        """
        left = self._deadline - min(ERROR_SECONDS, self.stop_seconds / 2) - time.monotonic()
        asyncio.get_running_loop().call_later(max(0, left), self.service.close)
        await super().shutdown(sockets)


def leave(sig: int, frame: FrameType | None) -> None:
    """Ends the process at once with exit code 0: a thread inside PyTorch can't be waited for, nor survives an exit.

    Args:
        sig: the signal.
        frame: not used.
    """
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(0)


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
    """Serves a model until SIGINT or SIGTERM, which end the process with exit code 0.

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
    for number in (*SIGNALS, signal.SIGALRM):  # uvicorn stops by the first two, and sends them again when it has
        signal.signal(number, leave)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    check_checkpoint(model)
    listener = listen(host, port)
    multiprocessing.forkserver.ensure_running()  # imports what decoders need while the model is loaded
    service = build_service(load_folded(model), model, limits, private_urls)
    service.name, service.api_key = name or default_name(model), api_key
    config = uvicorn.Config(
        build_app(service),
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
    )
    address, chosen = listener.getsockname()[:2]
    logger.info("Serving %s on http://%s:%d/v1", service.name, f"[{address}]" if ":" in address else address, chosen)
    GracefulServer(config, service, limits.stop_seconds).run(sockets=[listener])


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


__all__ = ["GracefulServer", "build_service", "default_name", "leave", "listen", "load_folded", "serve"]
