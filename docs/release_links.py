"""Makes the README's links absolute, for PyPI, which shows it without the repository.

    python docs/release_links.py https://github.com/OWNER/NAME v1.0.0

Changes README.md and pyproject.toml, which gets the repository's address, where they lie: for a
checkout that is built and thrown away, as the release workflow does.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

LINK = re.compile(r"(!?)(\[(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*\])\(([^)\s#]+)((?:#[^)\s]*)?)\)")


def absolute(text: str, repository: str, version: str) -> str:
    """Markdown whose links into the repository are addresses at that tag: pages, and raw images."""

    def moved(match: re.Match) -> str:
        image, shown, target, anchor = match.groups()
        shown = LINK.sub(moved, shown) if not image else shown  # a badge may be a link's text
        if "://" not in target and not target.startswith("mailto:"):
            kind = "raw" if image else "blob"
            target = f"{repository}/{kind}/{version}/{target}"
        return f"{image}{shown}({target}{anchor})"

    return LINK.sub(moved, text)


def with_address(project: str, repository: str) -> str:
    """pyproject.toml that names the repository among the project's addresses."""
    table = "[project.urls]\n"
    if table not in project:
        raise SystemExit("pyproject.toml has no table [project.urls] to put the address in.")
    return project.replace(table, f'{table}Source = "{repository}"\n')


def main() -> None:
    """Rewrite the files of this checkout."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repository", help="its address, such as https://github.com/OWNER/NAME")
    parser.add_argument("version", help="the tag")
    args = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    readme, project = root / "README.md", root / "pyproject.toml"
    repository = args.repository.rstrip("/")
    readme.write_text(absolute(readme.read_text("utf-8"), repository, args.version), "utf-8")
    project.write_text(with_address(project.read_text("utf-8"), repository), "utf-8")


if __name__ == "__main__":
    main()
