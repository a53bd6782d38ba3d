"""`make check` selects the tests of touched files, theirs first, then those of their rooms."""

import subprocess
import sys
from pathlib import Path

import touched

ROOT = Path(__file__).parents[1]


def test_a_files_own_tests_come_first_and_then_its_rooms():
    found = touched.tests_of(["svfit_diffusion/concept/packing.py"])
    assert found[0] == "tests/concept/test_packing.py"
    room = {str(p.relative_to(ROOT)) for p in (ROOT / "tests" / "concept").glob("test_*.py")}
    assert set(found) == room | set(touched.ALWAYS) and len(found) == len(set(found))


def test_files_outside_of_rooms_have_tests_too():
    assert "tests/test_supply.py" in touched.tests_of(["pyproject.toml"])
    assert "tests/settings/test_flags.py" in touched.tests_of(["svfit_diffusion/settings/words.py"])
    assert "tests/web/test_api.py" in touched.tests_of(["svfit_diffusion/web/service/api.py"])
    assert "tests/benchmarks/test_likeness.py" in touched.tests_of(["benchmarks/speed/load.py"])
    assert touched.tests_of(["README.md"]) == list(touched.ALWAYS)


def test_it_stops_in_time_and_says_so(tmp_path):
    (tmp_path / "test_a.py").write_text("def test_1(): pass\ntest_2 = test_1")
    code = (
        "import itertools, pytest, touched;"
        "limit = touched.Limit(1, itertools.count().__next__);"
        f"status = pytest.main(['-q', '-c', '/dev/null', {str(tmp_path)!r}], plugins=[limit]);"
        "print(int(status), limit.left)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True
    )
    assert run.stdout.splitlines()[-1] == "0 1", run.stdout + run.stderr
