"""Draws docs/architecture.svg, and the table in docs/architecture.md, from the imports.

    python docs/draw_architecture.py

A room (a sub-package, or a file beside them) stands above all that it imports. An arrow that can be
followed by way of other rooms is left out of the drawing; the table has them all. Nothing of a
room's text is kept here: what stands in a box is the first sentence of the room's docstring.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGE = "svfit_diffusion"
SVG, PAGE = ROOT / "docs" / "architecture.svg", ROOT / "docs" / "architecture.md"
MARKS = ("<!-- imports: python docs/draw_architecture.py -->", "<!-- end of imports -->")
NESTED = ("web",)  # rooms whose own rooms are drawn
LEFT = ("settings", "concept", "adapter", "pool", "data", "evaluation")
RIGHT = (
    "toybox",
    "families",
    "generation",
    "sharing",
    "web.studio",
    "web.page",
    "web.service",
    "web.serving",
)
WIDTH, BOX, HEIGHT, ROW = 760, 330, 62, 96  # px


def room(module: str) -> str:
    """The room of a module: `adapter`, `web.page`; "" for the package itself."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2] if parts[:1] in ([name] for name in NESTED) else parts[:1])


def arrows() -> dict[str, set[str]]:
    """Room -> the rooms that it imports."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in graph.modules:
        name = room(module)
        if name and not name.startswith("_") and name not in NESTED:
            mine = found.setdefault(name, set())
            others = map(room, graph.find_modules_directly_imported_by(module))
            mine.update(o for o in others if o and not o.startswith("_") and o != name)
    return found


def floor(name: str, below: dict[str, set[str]]) -> int:
    """How many rooms the longest way down from a room leads through."""
    return max((floor(other, below) + 1 for other in below[name]), default=0)


def shortest(below: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that no way over other rooms replaces."""

    def reached(name: str) -> set[str]:
        return below[name].union(*(reached(other) for other in below[name]))

    return {
        name: others - set().union(*(reached(other) for other in others))
        for name, others in below.items()
    }


def home(name: str) -> Path:
    """A room's folder, or the file that it is."""
    path = ROOT.joinpath(PACKAGE, *name.split("."))
    return path if path.is_dir() else path.with_suffix(".py")


def purpose(name: str) -> str:
    """The first sentence of a room's docstring, without its end."""
    path = home(name)
    file = path / "__init__.py" if path.is_dir() else path
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return (
        " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".").replace("`", "")
    )


def places(below: dict[str, set[str]]) -> dict[str, tuple[int, int]]:
    """Room -> left upper corner of its box, px. The highest floor is drawn first."""
    floors = {name: floor(name, below) for name in below}
    shares = {name: 1 if name in LEFT else 3 if name in RIGHT else 2 for name in below}
    return {
        name: (WIDTH * shares[name] // 4 - BOX // 2, 20 + ROW * (max(floors.values()) - level))
        for name, level in floors.items()
    }


def arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """From the lower edge of a box to the upper edge of one below it."""
    x1, y1 = start[0] + BOX // 2, start[1] + HEIGHT
    x2, y2 = end[0] + BOX // 2, end[1] - 3
    x1, x2, half = x1 + (x2 - x1) // 5, x2 + (x1 - x2) // 5, min(y2 - y1, 2 * ROW) // 2
    return f'<path d="M{x1} {y1} C{x1} {y1 + half} {x2} {y2 - half} {x2} {y2}"/>'


def box(name: str, place: tuple[int, int]) -> str:
    """A room: its name, and what it is for."""
    x, y = place
    lines = textwrap.wrap(purpose(name), 54)[:2]
    label = home(name).relative_to(ROOT / PACKAGE).as_posix() + "/" * home(name).is_dir()
    rows = "".join(
        f'<text x="{x + BOX // 2}" y="{y + 37 + 15 * i}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="6"/>'
        f'<text class="name" x="{x + BOX // 2}" y="{y + 20}">{label}</text>{rows}'
    )


def drawing(below: dict[str, set[str]]) -> str:
    """The SVG."""
    spots, lines = places(below), shortest(below)
    height = max(y for _, y in spots.values()) + HEIGHT + 20
    paths = [arrow(spots[a], spots[b]) for a in sorted(lines) for b in sorted(lines[a])]
    boxes = [box(name, spots[name]) for name in sorted(spots)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" font-family="sans-serif">',
            "<style>path{fill:none;stroke:#567;stroke-width:1.6;marker-end:url(#tip)}"
            "rect{fill:#f4f7fb;stroke:#567}text{font-size:11.5px;text-anchor:middle;fill:#333}"
            ".name{font-size:14px;font-weight:bold;fill:#123}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><polygon points="0,0 8,4 0,8" fill="#567"/></marker>'
            "</defs>",
            f'<rect width="{WIDTH}" height="{height}" style="fill:#fff;stroke:none"/>',
            *paths,
            *boxes,
            "</svg>\n",
        ]
    )


def table(below: dict[str, set[str]]) -> str:
    """Markdown: every room and all that it imports, the highest first."""
    order = sorted(below, key=lambda name: (-floor(name, below), name))

    def row(name: str, others: Iterable[str]) -> str:
        listed = ", ".join(f"`{other}`" for other in order if other in others)
        return f"| `{name}` | {listed or 'nothing'} |"

    return "\n".join(["| room | imports |", "|---|---|", *(row(n, below[n]) for n in order)])


def page(text: str, below: dict[str, set[str]]) -> str:
    """docs/architecture.md with its table as it is now."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n{table(below)}\n{MARKS[1]}{after}"


def main() -> None:
    """Write both."""
    below = arrows()
    SVG.write_text(drawing(below), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), below), encoding="utf-8")


if __name__ == "__main__":
    main()
