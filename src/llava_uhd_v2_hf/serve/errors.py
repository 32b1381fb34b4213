# Copyright 2026 The llava-uhd-v2-hf authors. Licensed under the Apache License, Version 2.0.
"""What a request is refused with: a status and the API's error body."""

from typing import Any


class ApiError(Exception):
    """Ends a request.

    Args:
        status: HTTP status.
        message: what was wrong and what to do, for the reader of the client's log.
        param: the part of the request that was wrong, as `messages[0].content`.
        code: a name of the reason that programs can compare.
        retry_after: when to try again, in seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """The answer's, besides those of every answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


__all__ = ["ApiError"]
