"""The gate before the app: what it lets through is a request of the page, of bounded size.

A browser is made to speak for strangers' pages: by a name of theirs that leads to this machine (DNS
rebinding), by a form or a script on their page, in a frame. So the gate asks for the name that is
called (Host) and for the page that calls (Origin, Sec-Fetch-Site). Everything that Gradio serves
beside what the page and its programs need is closed; tries of a password are slowed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from .clients import Closed, LoginAttempts, client_address, hostname, is_loopback
from .uploads import Kinds, addresses

MAX_JSON = 1_000_000  # bytes of what is no upload
MAX_REQUEST = 300_000_000  # bytes of one upload, of all its files
MAX_UPLOADS = 8  # at once

API = "/gradio_api/"
READ = re.compile(
    r"/(config/?|theme\.css|favicon\.ico|robots\.txt|manifest\.json|logout|(static|assets|svelte)/.*"
    r"|gradio_api/(info/?|openapi\.json|login_check/?|app_id/?|user/?|theme\.css|startup-events"
    r"|heartbeat/\w+|queue/data|upload_progress|call/\w+/\w+|file=(?!\w\w+:).*))?"
)
WRITE = re.compile(r"/(login/?|gradio_api/(queue/join|upload|cancel|reset/?|(run|call)/\w+/?))")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Tidy = Callable[[], Awaitable[None]]


class RequestGuard:
    """ASGI middleware. named: whether the app may be called by any name, for it has a password.

    endings: of the files that may be uploaded. busy: what a full queue answers.
    tidy: called after each upload.
    """

    def __init__(
        self, app: Any, named: bool, endings: frozenset[str], busy: str, tidy: Tidy
    ) -> None:
        self.app, self.named, self.endings, self.busy = app, named, endings, busy
        self.tries, self.uploads, self.tidy = LoginAttempts(), 0, tidy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] == "websocket":  # the page uses none
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        passage = _Passage(self, scope, receive, send)
        try:
            await passage.walk()
        except Closed as reason:
            if passage.started:
                raise
            await passage.refuse(reason)


class _Passage:
    """One request on its way through the gate."""

    def __init__(self, gate: RequestGuard, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate, self.scope, self._receive, self._send = gate, scope, receive, send
        self.path, self.started, self.got, self.full = scope["path"], False, 0, False
        self.headers = Headers(scope=scope)
        self.client = client_address(scope.get("client"))

    async def walk(self) -> None:
        """Check, and hand on."""
        self._check_place()
        writes = self.scope["method"] not in ("GET", "HEAD")
        upload = self.path == f"{API}upload"
        self.most = MAX_REQUEST if upload else MAX_JSON
        length = self.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most:
            raise Closed(413, f"A request may have {self.most:,} bytes at most.")
        login = self.path.rstrip("/") == "/login"
        if login:
            self.gate.tries.begin(self.client)
        if upload:
            await self._upload()
        elif writes and not login:
            await self.gate.app(self.scope, await self._checked(), self.send)
        else:
            await self.gate.app(self.scope, self.receive, self.send)

    def _check_place(self) -> None:
        """Refuse other names, other pages and other places than the page's own."""
        hosts, origins = self.headers.getlist("host"), self.headers.getlist("origin")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if not (self.gate.named and host) and not is_loopback(hostname(host)):
            raise Closed(421, "This app answers to localhost and 127.0.0.1 only.")
        reads, posts = self.scope["method"] in ("GET", "HEAD"), self.scope["method"] == "POST"
        asked = [self.headers.get(f"sec-fetch-{what}") for what in ("site", "mode", "dest")]
        followed = reads and asked[1:] == ["navigate", "document"]  # a link, into a tab of its own
        foreign = asked[0] in ("cross-site", "same-site") and not followed
        if foreign or any(urlsplit(origin).netloc.lower() != host for origin in origins):
            raise Closed(403, "Another page asked for this; open the app's own page.")
        if not (READ if reads else WRITE).fullmatch(self.path) or not (reads or posts):
            raise Closed(404, "There is nothing here.")

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part of the body, as long as it stays within bounds."""
        message = await self._receive()
        self.got += len(message.get("body", b""))
        if self.got > self.most:
            raise Closed(413, f"A request may have {self.most:,} bytes at most.")
        return message

    async def _checked(self) -> Receive:
        """A small body, read whole: files are named by what was uploaded, not by an address."""
        messages, body = [], b""
        while not messages or messages[-1].get("more_body"):
            messages.append(await self.receive())
            body += messages[-1].get("body", b"")
        try:
            if addresses(json.loads(body or b"{}")):
                raise Closed(400, "Files are uploaded here, not fetched from an address.")
        except (ValueError, RecursionError):
            raise Closed(400, "The request is not JSON.") from None

        async def replay() -> MutableMapping[str, Any]:
            return messages.pop(0) if messages else await self._receive()

        return replay

    async def _upload(self) -> None:
        """Files of the right kinds, a few requests at once."""
        if self.gate.uploads >= MAX_UPLOADS:
            raise Closed(429, "Many files are coming in now; try again in a minute.", 60)
        watch = Kinds(self.headers.get("content-type", ""), self.gate.endings)

        async def receive() -> MutableMapping[str, Any]:
            message = await self.receive()
            watch.see(message.get("body", b""))
            return message

        self.gate.uploads += 1
        try:
            await self.gate.app(self.scope, receive, self.send)
        finally:
            self.gate.uploads -= 1
            await self.gate.tidy()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """The app's answer, on its way out."""
        if message["type"] == "http.response.start":
            self.started = True
            if self.path.rstrip("/") == "/login" and message["status"] == 200:
                self.gate.tries.forget(self.client)
            joins = self.path.startswith((f"{API}queue/join", f"{API}call/"))
            if message["status"] == 503 and joins:  # Gradio's own words speak of its settings
                self.full, self.started = True, False
                return
            message["headers"] = [*message.get("headers", []), *SHIELDS]
        if not self.full:
            await self._send(message)
        elif not message.get("more_body"):
            await self.refuse(Closed(503, self.gate.busy, 60))

    async def refuse(self, reason: Closed) -> None:
        """Answer with the sentence."""
        body = json.dumps({"detail": str(reason)}).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close"), *SHIELDS]
        headers.append((b"content-length", str(len(body)).encode()))
        if reason.wait:
            headers.append((b"retry-after", str(math.ceil(reason.wait)).encode()))
        start = {"type": "http.response.start", "status": reason.status, "headers": headers}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})


SHIELDS = [
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]
