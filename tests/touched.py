"""The tests of the rooms that were touched: `make check`.

Touched are files that the last commit changed, that differ in the working tree, and new files. The
tests of these files run first, then the others of their rooms, for a minute and a half; the
number of tests that did not run is printed. `make test` runs all tests but the slow ones.

    python tests/touched.py [--list] [--seconds 90]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALWAYS = ("tests/test_layering.py", "tests/test_architecture.py", "tests/test_packaging.py")
ELSEWHERE = {  # where a file is tested that has no room of its name in tests/
    "pyproject.toml": "tests/test_supply.py",
    "constraints.txt": "tests/test_supply.py",
    "Makefile": "tests/test_supply.py",
    "requirements": "tests/test_supply.py",
    "integrations": "tests/integrations",
    "recipes": "tests/toybox",
    "samples": "tests/end_to_end/test_samples.py",
    "train_dreambooth_svfit.py": "tests/cli",
    "app.py": "tests/cli",
}


def changed() -> list[str]:
    """Paths of touched files, from the root, that exist."""
    earlier = "HEAD~1" if _git("rev-parse", "--verify", "--quiet", "HEAD~1") else "HEAD"
    found = _git("diff", "--name-only", earlier) + _git("ls-files", "-o", "--exclude-standard")
    return sorted(name for name in set(found) if (ROOT / name).exists())


def _git(*command: str) -> list[str]:
    run = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.splitlines()


def tests_of(names: Iterable[str]) -> list[str]:
    """Test files for touched files: their own first, then ALWAYS, then those of their rooms."""
    own, rooms = [], []
    for name in names:
        path = Path(name)
        if name.startswith("tests/") and path.name.startswith("test_"):
            own.append(name)
        elif path.parts[0] in ("svfit_diffusion", "benchmarks"):
            inside = path.parts[1:] if path.parts[0] == "svfit_diffusion" else path.parts
            room = f"tests/{inside[0].removesuffix('.py')}"
            mirror = f"{room}/test_{path.stem}.py" if len(inside) > 1 else f"tests/test_{path.name}"
            own.append(mirror)
            rooms += [room, f"{room.replace('tests/', 'tests/test_')}.py"]
        elif path.parts[0] in ELSEWHERE:
            rooms.append(ELSEWHERE[path.parts[0]])
    files = [*own, *ALWAYS, *rooms]
    found = [
        str(test.relative_to(ROOT))
        for name in files
        for test in (sorted((ROOT / name).glob("test_*.py")) if _folder(name) else [ROOT / name])
        if test.is_file()
    ]
    return list(dict.fromkeys(found))


def _folder(name: str) -> bool:
    return (ROOT / name).is_dir()


class Limit:
    """Ends a test run after so many seconds, without making it fail."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock, self.left = seconds, clock, 0

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests in their order while there is time."""
        end = self.clock() + self.seconds
        for index, item in enumerate(session.items):
            if self.clock() > end:
                self.left = len(session.items) - index
                break
            following = session.items[index + 1] if index + 1 < len(session.items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail or session.shouldstop:
                raise session.Failed(session.shouldfail or session.shouldstop)
        return True


def main() -> int:
    """Run them; returns pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the test files, and run none")
    parser.add_argument("--seconds", type=float, default=90, help="after which no test begins")
    given = parser.parse_args()
    files = tests_of(changed())
    print("\n".join(files), flush=True)
    if given.list:
        return 0
    limit = Limit(given.seconds)
    status = pytest.main(["-q", "-x", "--rootdir", str(ROOT), *files], plugins=[limit])
    if limit.left:
        print(f"{limit.left} tests did not run within {given.seconds:g} s; `make test` runs all.")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
