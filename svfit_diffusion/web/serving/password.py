"""HTTP Basic authentication, with the app's waits after wrong passwords."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from ..service import LoginAttempts, RequestRefused, client_address

Scope = MutableMapping[str, Any]
OPEN = ("/health",)  # what a load balancer asks


class Password:
    """The middleware. login: user and password."""

    def __init__(self, app: Any, login: tuple[str, str]) -> None:
        self.app, self.login, self.attempts = app, ":".join(login).encode(), LoginAttempts()

    async def __call__(
        self, scope: Scope, receive: Callable, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Pass a request with the right password on."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        given, client = _given(Headers(scope=scope)), client_address(scope.get("client"))
        if given is None:
            answer = _refusal(401, "A user and a password are needed (HTTP Basic).")
            await answer(scope, receive, send)
            return
        try:
            self.attempts.count(client)
        except RequestRefused as reason:
            answer = _refusal(reason.status, str(reason), reason.wait)
            await answer(scope, receive, send)
            return
        if not hmac.compare_digest(given, self.login):
            await _refusal(401, "The user or the password is wrong.")(scope, receive, send)
            return
        self.attempts.reset(client)
        await self.app(scope, receive, send)


def _given(headers: Headers) -> bytes | None:
    """ "user:password" of a request; None where it has none."""
    kind, _, text = headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _refusal(status: int, sentence: str, wait: float = 0) -> JSONResponse:
    headers = {"WWW-Authenticate": 'Basic realm="svfit"'} if status == 401 else {}
    headers |= {"Retry-After": str(int(wait) + 1)} if wait else {}
    return JSONResponse({"detail": sentence}, status, headers)
