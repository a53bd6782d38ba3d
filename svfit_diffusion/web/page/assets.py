"""The page's files: CSS and JavaScript of static/, HTML of templates/."""

from __future__ import annotations

from importlib.resources import files

import jinja2
from markupsafe import Markup

from ...concept import printable

MAX_TEXT = 5_000  # characters of one text


def read_asset(folder: str, name: str) -> str:
    """The text of a file of this package."""
    return (files(__package__) / folder / name).read_text("utf-8")


def _one_line(value: object) -> object:
    """A value in a template: one line without control characters, which Jinja then escapes."""
    return value if isinstance(value, Markup) else printable(str(value), MAX_TEXT)


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FunctionLoader(lambda name: read_asset("templates", name)),
    autoescape=True,
    finalize=_one_line,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_template(template: str, /, **values: object) -> str:
    """Render a template; every value is escaped, except Markup."""
    return _TEMPLATES.get_template(template).render(**values).strip()


CSS = read_asset("static", "page.css")
SHORTCUTS = read_asset("static", "shortcuts.js")  # a function that Gradio runs on loading
