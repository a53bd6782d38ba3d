"""`svfit serve`: pictures for programs, over HTTP."""

from __future__ import annotations

import argparse
from typing import Any

from .._extras import need
from .paths import expanded, port
from .terminal import quiet_libraries


def add_command(commands: Any) -> None:
    """Add `serve` to the commands."""
    command = commands.add_parser(
        "serve", help="generate for programs over HTTP, many concepts in one batch"
    )
    command.add_argument(
        "--base", default="toybox", type=expanded, help="base of the concepts (default: toybox)"
    )
    command.add_argument("--concepts", type=expanded, metavar="FOLDER", help="concept files")
    command.add_argument(
        "--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1)"
    )
    command.add_argument(
        "--port", type=port, default=7850, help="port to serve on; 0: a free one (default: 7850)"
    )
    command.add_argument(
        "--auth", metavar="USER:PASSWORD", help="login; needed where --host lets others in"
    )
    command.add_argument(
        "--queue", type=int, default=64, help="pictures that may wait (default: 64)"
    )
    command.add_argument(
        "--batch", type=int, default=8, help="pictures generated together (default: 8)"
    )
    command.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    need("uvicorn", "app", "svfit serve")
    quiet_libraries()
    from ..web.serving import run_server

    given = ("base", "concepts", "host", "port", "auth", "queue", "batch")
    run_server(*(getattr(arguments, key) for key in given))
    return 0
