"""Packages that only some parts need, which pip installs on request: svfit-diffusion[app]."""

from __future__ import annotations

from importlib.util import find_spec


def need(package: str, extra: str, what: str) -> None:
    """ValueError where a package is not installed. what: needs it. extra: that brings it."""
    if find_spec(package) is None:
        raise ValueError(
            f"{what} needs {package}, which is not installed; run `pip install "
            f"'svfit-diffusion[{extra}]'`."
        )
