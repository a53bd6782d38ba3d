"""Serving the page: on this machine only, unless asked otherwise with a password."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from ...data import CAPTION
from ..page import CSS, KEYS, THEME
from ..studio import SUFFIXES, Library, Runs, Studio, Workspace, data_folder, read_card
from ..studio import temporary_files as files
from .assembly import QUEUE, build_page
from .middleware import RequestGuard, is_loopback

MAX_UPLOAD = 25_000_000  # bytes of one file: a photo of a phone; concepts have their own limit
SESSIONS = 64  # browser windows remembered


def run_app(
    base: str, host: str, port: int | None, concepts: Sequence[str], auth: str | None = None
) -> None:
    """Serve until Ctrl-C. auth: "user:password". ValueError for what cannot be served."""
    login = check_access(host, auth)
    for path in concepts:
        read_card(path)  # refuse a bad file before the base is loaded
    with tempfile.TemporaryDirectory(prefix="svfit-") as folder:  # mode 0700, gone at the end
        os.environ["GRADIO_TEMP_DIR"] = folder
        desk = Workspace(Studio(base), Library(data_folder()), Runs(data_folder()), not login)
        for path in concepts:
            desk.studio.check(read_card(path))
        page = build_page(desk, [desk.library.add(path) for path in concepts])
        try:
            _, url, _ = launch(page, host, port, login)
        except OSError as error:
            raise ValueError(
                f"{host} cannot be served on port {port or '7860 to 7959'}; it may be taken, so "
                "pass another --port."
            ) from error
        print(f"Open {url} in a browser; Ctrl-C ends it.", flush=True)
        try:
            page.block_thread()
        finally:
            page.close(verbose=False)
            if run := desk.runs.going():
                run.stop()
                print("The training under way ends too; what it learned is kept.", flush=True)


def check_access(host: str, auth: str | None) -> tuple[str, str] | None:
    """User and password of "user:password"; ValueError where others could enter without."""
    user, _, password = (auth or "").partition(":")
    if auth is not None and not (user and password):
        raise ValueError("--auth is not of the form user:password.")
    if not auth and not is_loopback(host):
        raise ValueError(
            f"--host {host} lets others in; pass --auth user:password too, or leave it at "
            "127.0.0.1."
        )
    return (user, password) if auth else None


def launch(
    page: gr.Blocks, host: str, port: int | None, login: tuple[str, str] | None = None
) -> tuple[object, str, str]:
    """Start serving and return at once; every setting that is open by default is closed.

    Files lie in $GRADIO_TEMP_DIR, which is to be the app's own: it is swept.
    """
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")  # who asks is who connects
    gate = Middleware(
        RequestGuard,
        named=login is not None,
        endings=frozenset({*SUFFIXES, CAPTION, ".safetensors"}),
        busy=f"The app is busy: {QUEUE} jobs wait already. Try again in a minute.",
        tidy=lambda: files.tidy(folder),
    )
    return page.launch(
        app_kwargs={"middleware": [gate], "lifespan": lambda _: files.swept(folder)},
        server_name=host,
        server_port=port,
        auth=login,
        share=False,
        quiet=True,
        inbrowser=False,
        prevent_thread_lock=True,
        max_file_size=MAX_UPLOAD,
        allowed_paths=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        strict_cors=True,
        show_error=False,
        state_session_capacity=SESSIONS,
        footer_links=["api"],
        theme=THEME,
        css=CSS,
        js=KEYS,
    )
