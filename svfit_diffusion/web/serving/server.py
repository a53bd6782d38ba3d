"""Serves pictures to programs: one base, the concepts of a folder, until it is ended.

It keeps nothing: a second one on another machine, on a copy of the folder, answers alike.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from ...families import base_name, load_base
from ...generation import generate_batch, pick_device, pick_dtype
from ...pool import ConceptPool
from ..service import RequestGuard, check_access
from .batching import Batching
from .metrics import Metrics
from .password import Password
from .routes import GET_PATHS, POST_PATHS, Front


def run_server(
    base: str,
    folder: str | Path | None,
    host: str,
    port: int,
    auth: str | None = None,
    room: int = 64,
    batch: int = 8,
) -> None:
    """Serve until Ctrl-C or SIGTERM. auth: "user:password". ValueError if it cannot.

    folder: of concept files. room: pictures that may wait. batch: how many are generated together.
    """
    login = check_access(host, auth)
    if min(room, batch) < 1:
        raise ValueError("--queue and --batch must be at least 1.")
    wire = _listen(host, port)
    device = pick_device()
    pipe = load_base(base, pick_dtype(device), checked=True).to(device)
    pipe.set_progress_bar_config(disable=True)
    pool = ConceptPool(pipe, folder)
    queue = Batching(lambda wanted: generate_batch(pool, wanted), room, batch, Metrics())
    front = Front(pool, queue, base_name(base))
    address = f"http://{host}:{wire.getsockname()[1]}"
    print(f"Serving {front.base} at {address}; Ctrl-C ends it.", flush=True)
    try:
        uvicorn.Server(uvicorn_config(front.app(gate(login)))).run(sockets=[wire])
    finally:
        queue.close()


def uvicorn_config(app: Starlette) -> uvicorn.Config:
    """How the app is served. A client is its connection's address, or what the proxies that
    $FORWARDED_ALLOW_IPS names say of it.
    """
    proxies = os.environ.get("FORWARDED_ALLOW_IPS", "")
    return uvicorn.Config(app, log_level="warning", access_log=False, forwarded_allow_ips=proxies,
                          server_header=False, lifespan="off",
                          timeout_graceful_shutdown=60)  # fmt: skip


def gate(login: tuple[str, str] | None) -> list[Middleware]:
    """The app's checks of each request, and of the password if there is one."""

    async def nothing() -> None:
        """There are no uploads."""

    guard = Middleware(
        RequestGuard,
        any_host=login is not None,
        suffixes=frozenset(),
        busy="",
        after_upload=nothing,
        routes=(GET_PATHS, POST_PATHS),
    )
    return [guard, *([Middleware(Password, login=login)] if login else [])]


def _listen(host: str, port: int) -> socket.socket:
    """The socket, before the base is loaded: a port that is taken is said at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    wire = socket.socket(family, socket.SOCK_STREAM)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        wire.bind((host, port))
    except OSError as error:
        wire.close()
        raise ValueError(
            f"{host} cannot be served on port {port}; it may be taken, so pass another --port."
        ) from error
    return wire
