"""Serves the app: on this machine only, unless there is a password."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from ...data import CAPTION
from ..page import CSS, SHORTCUTS, THEME
from ..studio import (
    PHOTO_SUFFIXES,
    History,
    Library,
    Runs,
    SharedPipeline,
    Workspace,
    data_folder,
    read_card,
    sweep_app_folder,
    sweeping,
)
from .access import check_access, ended_by_sigterm
from .assembly import QUEUE, build_app
from .middleware import RequestGuard

MAX_UPLOAD = 25_000_000  # bytes of one file, such as a phone's photo; concepts are smaller
SESSIONS = 64  # browser windows remembered


def run_app(
    base: str, host: str, port: int | None, concepts: Sequence[str], auth: str | None = None
) -> None:
    """Serve until Ctrl-C. concepts: files. auth: "user:password". ValueError if it cannot."""
    login = check_access(host, auth)
    for path in concepts:
        read_card(path)  # raise before the base is loaded
    with tempfile.TemporaryDirectory(prefix="svfit-") as folder:  # mode 0700
        os.environ["GRADIO_TEMP_DIR"] = folder
        home = data_folder()
        workspace = Workspace(
            SharedPipeline(base), Library(home), Runs(home), History(home), not login
        )
        for path in concepts:
            workspace.pipeline.check(read_card(path))
        page = build_app(workspace, [workspace.library.add(path) for path in concepts])
        try:
            _, url, _ = launch(page, host, port, login)
        except OSError as error:
            raise ValueError(
                f"{host} cannot be served on port {port or '7860 to 7959'}; it may be taken, so "
                "pass another --port."
            ) from error
        print(f"Open {url} in a browser; Ctrl-C ends it.", flush=True)
        try:
            with ended_by_sigterm():
                page.block_thread()
        finally:
            page.close(verbose=False)
            if run := workspace.runs.active():
                run.stop()
                print(
                    "The training that is running stops too; what it learned is kept.", flush=True
                )


def launch(
    page: gr.Blocks, host: str, port: int | None, login: tuple[str, str] | None = None
) -> tuple[object, str, str]:
    """Start serving and return at once, with Gradio's open defaults closed.

    Files are stored in $GRADIO_TEMP_DIR, which must be the app's own, since it is swept.
    """
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")  # a client's address is the connection's
    guard = Middleware(
        RequestGuard,
        any_host=login is not None,
        suffixes=frozenset({*PHOTO_SUFFIXES, CAPTION, ".safetensors"}),
        busy=f"The app is busy: {QUEUE} jobs are waiting. Try again in a minute.",
        after_upload=lambda: sweep_app_folder(folder),
    )
    return page.launch(
        app_kwargs={"middleware": [guard], "lifespan": lambda _: sweeping(folder)},
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
        js=SHORTCUTS,
    )
