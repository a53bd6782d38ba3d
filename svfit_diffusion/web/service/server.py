"""Serves the app: on this machine only, unless there is a password; or its public page."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ...data import CAPTION_SUFFIXES
from ..page import CSS, SHORTCUTS, THEME
from ..studio import (
    PHOTO_SUFFIXES,
    VISITS,
    History,
    Library,
    Runs,
    SharedPipeline,
    Visitors,
    Workspace,
    data_folder,
    read_card,
    sweep_app_folder,
    sweeping,
)
from .access import check_access, ended_by_sigterm
from .assembly import QUEUE, build_app, build_public_app
from .clients import RequestRate
from .middleware import PUBLIC_ROUTES, RequestGuard

MAX_UPLOAD = 25_000_000  # bytes of one file, such as a phone's photo; concepts are smaller
MAX_PUBLIC_UPLOAD = 1_000_000  # bytes of a concept file on a public page
PUBLIC_RATE = 10  # jobs and uploads of a client within a minute, on a public page
SESSIONS = 64  # browser windows remembered


def run_app(
    base: str, host: str, port: int | None, concepts: Sequence[str], auth: str | None = None
) -> None:
    """Serve until Ctrl-C. concepts: files. auth: "user:password". ValueError if it cannot."""
    login = check_access(host, auth)
    with _temporary_folder():
        pipeline, home = _checked(base, concepts), data_folder()
        workspace = Workspace(pipeline, Library(home), Runs(home), History(home), not login)
        page = build_app(workspace, [workspace.library.add(path) for path in concepts])
        _open(page, host, port, login=login)
        try:
            _serve(page)
        finally:
            if run := workspace.runs.active():
                run.stop()
                print(
                    "The training that is running stops too; what it learned is kept.", flush=True
                )


def run_public_app(base: str, host: str, port: int | None, concepts: Sequence[str]) -> None:
    """Serve the public page until Ctrl-C. concepts: files that every visitor may use."""
    with _temporary_folder() as folder:
        visitors = Visitors(_checked(base, concepts), folder / VISITS, concepts)
        page = build_public_app(visitors)
        _open(page, host, port, visitors=visitors)
        _serve(page)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """The app's own, which goes with it, by SIGTERM too; Gradio stores files there."""
    with ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="svfit-") as folder:  # mode 0700
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield Path(folder)


def _checked(base: str, concepts: Sequence[str]) -> SharedPipeline:
    """The base; ValueError where a concept cannot be used on it, if possible before loading it."""
    cards = [read_card(path) for path in concepts]
    pipeline = SharedPipeline(base)
    for card in cards:
        pipeline.check(card)
    return pipeline


def _open(page: gr.Blocks, host: str, port: int | None, **options: Any) -> None:
    """Launch a page and print its address. options: of launch."""
    try:
        _, url, _ = launch(page, host, port or None, **options)
    except OSError as error:
        raise ValueError(
            f"{host} cannot be served on port {port or '7860 to 7959'}; it may be taken, so "
            "pass another --port."
        ) from error
    print(f"Open {url} in a browser; Ctrl-C ends it.", flush=True)


def _serve(page: gr.Blocks) -> None:
    """Wait until Ctrl-C or SIGTERM, then close the page."""
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)


def launch(
    page: gr.Blocks,
    host: str,
    port: int | None,
    login: tuple[str, str] | None = None,
    visitors: Visitors | None = None,
) -> tuple[object, str, str]:
    """Start serving and return at once, with Gradio's open defaults closed.

    Files are stored in $GRADIO_TEMP_DIR, which must be the app's own, since it is swept.
    visitors: of a public page, whose requests are counted.
    """
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")  # a client's address is the connection's
    kinds, public, others = {*PHOTO_SUFFIXES, *CAPTION_SUFFIXES, ".safetensors"}, {}, ()
    if visitors:
        kinds, others = {".safetensors"}, (visitors.forget_idle,)
        public = {
            "rate": RequestRate(PUBLIC_RATE),
            "max_upload": 2 * MAX_PUBLIC_UPLOAD,
            "routes": PUBLIC_ROUTES,
        }
    guard = Middleware(
        RequestGuard,
        any_host=login is not None,
        suffixes=frozenset(kinds),
        busy=f"The app is busy: {QUEUE} jobs are waiting. Try again in a minute.",
        after_upload=lambda: sweep_app_folder(folder),
        **public,
    )
    return page.launch(
        app_kwargs={"middleware": [guard], "lifespan": lambda _: sweeping(folder, *others)},
        server_name=host,
        server_port=port,
        auth=login,
        share=False,
        quiet=True,
        inbrowser=False,
        prevent_thread_lock=True,
        max_file_size=MAX_PUBLIC_UPLOAD if visitors else MAX_UPLOAD,
        allowed_paths=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        strict_cors=True,
        show_error=False,
        state_session_capacity=SESSIONS,
        footer_links=[] if visitors else ["api"],
        theme=THEME,
        css=CSS,
        js=SHORTCUTS,
    )
