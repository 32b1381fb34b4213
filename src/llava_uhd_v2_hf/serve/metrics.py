# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""Counters of a server, in the text format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """What a server has done since its start; each server has its own."""

    def __init__(self):
        registry = self.registry = CollectorRegistry()
        name = "llava_uhd_v2_"
        self.requests = Counter(f"{name}requests", "Requests by status", ["status"], registry=registry)
        self.refused = Counter(f"{name}refused", "Refused requests by code", ["code"], registry=registry)
        self.cancelled = Counter(f"{name}cancelled", "Requests whose client went away", registry=registry)
        self.prompt_tokens = Counter(f"{name}prompt_tokens", "Tokens read, images included", registry=registry)
        self.answer_tokens = Counter(f"{name}answer_tokens", "Tokens written", registry=registry)
        self.images = Counter(f"{name}images", "Images read", registry=registry)
        self.in_hand = Gauge(f"{name}in_hand", "Requests from their first byte to their last", registry=registry)
        self.waiting = Gauge(f"{name}waiting", "Requests that wait for the model", registry=registry)
        self.running = Gauge(f"{name}running", "Requests in the present batch", registry=registry)
        self.batch_size = Histogram(
            f"{name}batch_size", "Requests of a batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.batch_seconds = Histogram(f"{name}batch_seconds", "Time of a batch", buckets=SECONDS, registry=registry)
        self.first_token_seconds = Histogram(
            f"{name}first_token_seconds", "Time to an answer's first token", buckets=SECONDS, registry=registry
        )
        self.request_seconds = Histogram(
            f"{name}request_seconds", "Time of an answered request", buckets=SECONDS, registry=registry
        )

    def render(self) -> bytes:
        """All of them as text."""
        return generate_latest(self.registry)


__all__ = ["Metrics"]
