"""Who may use what is served, and how serving ends: the same for the app and for programs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from .clients import is_loopback


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that nothing is left behind."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_access(host: str, auth: str | None) -> tuple[str, str] | None:
    """User and password of "user:password"; ValueError where others would need none."""
    user, _, password = (auth or "").partition(":")
    if auth is not None and not (user and password):
        raise ValueError("--auth must have the form user:password.")
    if not auth and not is_loopback(host):
        raise ValueError(
            f"--host {host} makes the app reachable for others; pass --auth user:password too, or "
            "leave it at 127.0.0.1."
        )
    return (user, password) if auth else None
