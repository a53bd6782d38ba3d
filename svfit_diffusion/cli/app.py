"""`svfit app`: train, generate and share in the browser."""

from __future__ import annotations

import argparse
from typing import Any

from .._extras import need
from .paths import expanded, port
from .terminal import quiet_libraries


def add_command(commands: Any) -> None:
    """Add `app` to the commands."""
    command = commands.add_parser("app", help="train, generate and share concepts in the browser")
    command.add_argument(
        "--base", default="toybox", type=expanded, help="base of the concepts (default: toybox)"
    )
    command.add_argument(
        "--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1)"
    )
    command.add_argument(
        "--port", type=port, help="port to serve on; 0: a free one from 7860 (default: 0)"
    )
    command.add_argument(
        "--concept",
        action="append",
        default=[],
        type=expanded,
        metavar="FILE",
        help="a concept file for the library, in use from the start; may be given several times",
    )
    command.add_argument(
        "--auth", metavar="USER:PASSWORD", help="login; needed where --host lets others in"
    )
    command.add_argument(
        "--public",
        action="store_true",
        help="for strangers, without a password: generate only, keep nothing, limit everybody",
    )
    command.set_defaults(run=_app)


def _app(arguments: argparse.Namespace) -> int:
    need("gradio", "app", "svfit app")
    quiet_libraries()
    from ..web.service import run_app, run_public_app

    if arguments.public:
        if arguments.auth:
            raise ValueError("--public has no password; leave out --public or --auth.")
        run_public_app(arguments.base, arguments.host, arguments.port, arguments.concept)
        return 0
    run_app(arguments.base, arguments.host, arguments.port, arguments.concept, arguments.auth)
    return 0
