"""The one direction of imports: pyproject.toml states it, import-linter holds it.

What import-linter does not see: rooms load their files lazily, so a name that a room does not list
would fail only when the importing line runs. That is checked here.
"""

import ast
import subprocess
import sys
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "svfit_diffusion"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))
ROOMS = {".".join(p.relative_to(ROOT).parts[:-1]) for p in FILES if p.name == "__init__.py"}
ROOMS.remove(PACKAGE)
# A room's file that others may import as a whole, and why.
NAMESPACES = {
    ("svfit_diffusion.pipeline", "trigger"): "its functions need its name: trigger.start_row",
}


def test_no_room_and_no_file_imports_against_the_order():
    """In a process of its own: import-linter turns off the loggers of the one that it runs in."""
    code = "from importlinter.cli import lint_imports as lint; exit(lint(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_every_name_that_a_room_lists_is_there(room):
    module = import_module(room)
    files = {path.stem for path in (ROOT / room.replace(".", "/")).iterdir()}
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None
        assert name not in files, "importing the file would put it in the name's place"


def imports(file):
    """(module, name, line) of what a file imports from this package, wherever in the file."""
    package = ".".join(file.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield from ((module, alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "", node.lineno) for alias in node.names)


def test_the_allowed_namespaces_are_in_use():
    found = {(module, name) for file in FILES for module, name, _ in imports(file)}
    assert set(NAMESPACES) <= found


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(ROOT / PACKAGE)))
def test_other_rooms_are_entered_by_their_doors(file):
    """Only a room's own files import its files; others import names that the room lists."""
    own = ".".join(file.relative_to(ROOT).parts[:-1])
    for module, name, line in imports(file):
        place = f"{file.relative_to(ROOT)}:{line} imports {name} from {module}"
        inside = module == own or module.startswith(f"{own}.")
        if module.split(".")[0] != PACKAGE or inside or (module, name) in NAMESPACES:
            continue
        if module == PACKAGE:
            assert f"{PACKAGE}.{name}" in ROOMS or hasattr(import_module(PACKAGE), name), place
        elif module in ROOMS:
            assert name in getattr(import_module(module), "__all__", ()), place
        else:
            assert module.count(".") == 1 and hasattr(import_module(module), name), place
