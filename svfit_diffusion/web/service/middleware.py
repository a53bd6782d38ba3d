"""ASGI middleware: only requests of the app's own page and API, of bounded size, reach Gradio.

Other pages can make a browser send requests here: under a name of theirs that resolves to this
machine (DNS rebinding), by a form or a script, in a frame. So the host (Host) and the page that
sends (Origin, Sec-Fetch-Site) are checked. Routes of Gradio that the page does not need are closed,
and logins are slowed after wrong passwords. A public page (`rate`) may be used, and shown in a
frame, by every other page: there is nothing that its visitors' browsers could be made to give away.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from .clients import (
    LoginAttempts,
    RequestRate,
    RequestRefused,
    client_address,
    hostname,
    is_loopback,
)
from .uploads import UploadFilter, has_remote_file

MAX_JSON = 1_000_000  # bytes of a request that is not an upload
MAX_REQUEST = 300_000_000  # bytes of one upload with all its files
MAX_UPLOADS = 8  # at once

API = "/gradio_api/"
_READ = (
    r"/(config/?|theme\.css|favicon\.ico|robots\.txt|manifest\.json|logout|(static|assets|svelte)/.*"
    r"|gradio_api/(info/?|login_check/?|app_id/?|user/?|theme\.css|startup-events"
    r"|heartbeat/\w+|queue/data|upload_progress|file=(?!\w\w+:).*%s))?"
)
GET_PATHS = re.compile(_READ % r"|openapi\.json|call/\w+/\w+")
POST_PATHS = re.compile(
    r"/(login/?|gradio_api/(queue/join|upload|cancel|reset/?|(run|call)/\w+/?))"
)
ROUTES = (GET_PATHS, POST_PATHS)
PUBLIC_POST_PATHS = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset/?|run/predict/?)")
PUBLIC_GET_PATHS = re.compile(_READ % "")
PUBLIC_ROUTES = (PUBLIC_GET_PATHS, PUBLIC_POST_PATHS)  # without the API
PUBLIC_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
SECURITY_HEADERS = [(b"x-frame-options", b"SAMEORIGIN"), *PUBLIC_HEADERS]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class RequestGuard:
    """The middleware. any_host: whether every Host is allowed, since the app has a password.

    suffixes: of files that may be uploaded. busy: the sentence for a full queue.
    after_upload: called after each upload. routes: the paths that may be read, and sent to.
    max_upload: bytes of one upload with all its files, if not MAX_REQUEST. rate: of jobs and
    uploads of each client; with it, the app is public: any host, any page.
    """

    def __init__(
        self,
        app: Any,
        any_host: bool,
        suffixes: frozenset[str],
        busy: str,
        after_upload: Callable[[], Awaitable[None]],
        routes: tuple[re.Pattern, re.Pattern] = ROUTES,
        max_upload: int | None = None,
        rate: RequestRate | None = None,
    ) -> None:
        self.app, self.any_host, self.suffixes, self.busy = app, any_host, suffixes, busy
        self.routes, self.max_upload, self.rate = routes, max_upload, rate
        self.response_headers = PUBLIC_HEADERS if rate else SECURITY_HEADERS
        self.logins, self.uploads, self.after_upload = LoginAttempts(), 0, after_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the app, or refuse it."""
        if scope["type"] == "websocket":  # the page uses none
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Request(self, scope, receive, send)
        try:
            await request.handle()
        except RequestRefused as reason:
            if request.started:
                raise
            await request.refuse(reason)


class _Request:
    """One HTTP request and its response.

    started: the response has begun. full: the app answered that its queue is full.
    """

    def __init__(self, guard: RequestGuard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self._receive, self._send = guard, scope, receive, send
        self.path, self.headers = scope["path"], Headers(scope=scope)
        self.client = client_address(scope.get("client"))
        self.received, self.started, self.full = 0, False, False
        self.is_read = scope["method"] in ("GET", "HEAD")
        self.is_upload, self.is_login = (
            self.path == f"{API}upload",
            self.path.rstrip("/") == "/login",
        )
        self.is_job = self.path.startswith((f"{API}queue/join", f"{API}call/"))
        self.max_bytes = (guard.max_upload or MAX_REQUEST) if self.is_upload else MAX_JSON

    async def handle(self) -> None:
        """Check the request and pass it on."""
        if self.guard.rate is None:
            self._check_host()
            self._check_origin()
        self._check_path()
        length = self.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.max_bytes:
            raise self._too_large()
        if self.is_login:
            self.guard.logins.count(self.client)
        if self.guard.rate and (self.is_upload or self.is_job) and not self.is_read:
            self.guard.rate.count(self.client)
        if self.is_upload:
            await self._upload()
        elif self.is_read or self.is_login:
            await self.guard.app(self.scope, self.receive, self.send)
        else:
            await self.guard.app(self.scope, await self._checked_json(), self.send)

    def _check_host(self) -> None:
        """Without a password, only this machine's own names."""
        if not (self.guard.any_host and self._host()) and not is_loopback(hostname(self._host())):
            raise RequestRefused(421, "This app answers to localhost and 127.0.0.1 only.")

    def _host(self) -> str:
        """The Host header, "" unless there is exactly one."""
        hosts = self.headers.getlist("host")
        return hosts[0].lower() if len(hosts) == 1 else ""

    def _check_origin(self) -> None:
        """No request from another page, except a link to the app."""
        site, mode, dest = (self.headers.get(f"sec-fetch-{x}") for x in ("site", "mode", "dest"))
        is_link = self.is_read and (mode, dest) == ("navigate", "document")
        foreign = site in ("cross-site", "same-site") and not is_link
        origins = [urlsplit(origin).netloc for origin in self.headers.getlist("origin")]
        if foreign or any(origin.lower() != self._host() for origin in origins):
            raise RequestRefused(403, "Another page asked for this; open the app's own page.")

    def _check_path(self) -> None:
        """Only the routes that the page and its API need."""
        paths = self.guard.routes[0 if self.is_read else 1]
        allowed = self.is_read or self.scope["method"] == "POST"
        if not paths.fullmatch(self.path) or not allowed:
            raise RequestRefused(404, "There is nothing here.")

    def _too_large(self) -> RequestRefused:
        return RequestRefused(413, f"A request may have {self.max_bytes:,} bytes at most.")

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part of the body, within max_bytes in all."""
        message = await self._receive()
        self.received += len(message.get("body", b""))
        if self.received > self.max_bytes:
            raise self._too_large()
        return message

    async def _checked_json(self) -> Receive:
        """Read the body and refuse addresses of files; returns a function that replays it."""
        messages, body = [], b""
        while not messages or messages[-1].get("more_body"):
            messages.append(await self.receive())
            body += messages[-1].get("body", b"")
        try:
            if has_remote_file(json.loads(body or b"{}")):
                raise RequestRefused(400, "Files are uploaded here, not fetched from an address.")
        except (ValueError, RecursionError):
            raise RequestRefused(400, "The request is not JSON.") from None

        async def replay() -> MutableMapping[str, Any]:
            return messages.pop(0) if messages else await self._receive()

        return replay

    async def _upload(self) -> None:
        """Pass an upload on while its files have the right suffixes."""
        if self.guard.uploads >= MAX_UPLOADS:
            raise RequestRefused(429, "Many files are being uploaded; try again in a minute.", 60)
        upload = UploadFilter(self.headers.get("content-type", ""), self.guard.suffixes)

        async def receive() -> MutableMapping[str, Any]:
            message = await self.receive()
            upload.feed(message.get("body", b""))
            return message

        self.guard.uploads += 1
        try:
            await self.guard.app(self.scope, receive, self.send)
        finally:
            self.guard.uploads -= 1
            await self.guard.after_upload()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send the app's response, with our headers."""
        if message["type"] == "http.response.start":
            self.started = True
            if self.is_login and message["status"] == 200:
                self.guard.logins.reset(self.client)
            if message["status"] == 503 and self.is_job:  # Gradio's sentence is about its settings
                self.full, self.started = True, False
                return
            message["headers"] = [*message.get("headers", []), *self.guard.response_headers]
        if not self.full:
            await self._send(message)
        elif not message.get("more_body"):
            await self.refuse(RequestRefused(503, self.guard.busy, 60))

    async def refuse(self, reason: RequestRefused) -> None:
        """Respond with the status and the sentence."""
        body = json.dumps({"detail": str(reason)}).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        headers += [*self.guard.response_headers, (b"content-length", str(len(body)).encode())]
        if reason.wait:
            headers.append((b"retry-after", str(math.ceil(reason.wait)).encode()))
        start = {"type": "http.response.start", "status": reason.status, "headers": headers}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})
