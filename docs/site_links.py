"""Let pages of the site link to what lies beside `docs/`: a hook of mkdocs.

In the repository a link is relative to its file, as everywhere. A file outside `docs/` that a page
links to (a picture, a table, SECURITY.md) joins the site under its path in the repository, and so
does what it links to in turn.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def _in_repository(uri: str) -> str:
    """The path in the repository of a page of the site."""
    return uri if (ROOT / uri).is_file() else f"docs/{uri}"


def _target(page: str, link: str) -> str | None:
    """The path in the repository that a link of a page means; None for an address."""
    if "://" in link or link.startswith("mailto:"):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _joined(config, path: str) -> File:
    """A file of the repository as one of the site, which the menu need not list."""
    out = InclusionLevel.NOT_IN_NAV
    return File.generated(config, path, abs_src_path=str(ROOT / path), inclusion=out)


def on_files(files, config):
    """Add what pages link to outside `docs/`."""
    waiting = [_in_repository(file.src_uri) for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for match in LINK.finditer((ROOT / page).read_text("utf-8")):
            path = _target(page, match[2])
            if path is None or path == "README.md" or path.startswith("docs/"):
                continue
            if not (ROOT / path).is_file():
                continue
            if files.get_file_from_path(path) is None:
                files.append(_joined(config, path))
                waiting += [path] if path.endswith(".md") else []
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links at where files lie in the site; one to a folder becomes its name."""
    here = _in_repository(page.file.src_uri)
    place = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match) -> str:
        path = _target(here, match[2])
        if path is None:
            return match[0]
        if (ROOT / path).is_dir():
            return f"{match[1][:-1]}"
        if path == "README.md":  # which says what the first page says
            return f"{match[1]}{os.path.relpath('index.md', place or '.')}{match[4]}"
        uri = path.removeprefix("docs/")
        return f"{match[1]}{os.path.relpath(uri, place or '.')}{match[3] or ''}{match[4]}"

    return LINK.sub(moved, markdown)
