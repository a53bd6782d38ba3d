"""tests/faults: every fault can still be put in, and its test, parameters and all, is there."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "faults"))
from run import HERE, ROOT, apply, read_faults

FAULTS = read_faults()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.path.stem)
def test_a_fault_applies(fault):
    assert apply(ROOT, fault, "--check") == ""


def test_the_tests_that_faults_name_are_there():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", ""]
    named = dict.fromkeys(fault.test for fault in FAULTS)
    done = subprocess.run([*command, *named], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_patch_that_says_nothing_is_refused(tmp_path):
    assert FAULTS and all(fault.path.parent == HERE for fault in FAULTS)
    (tmp_path / "a.patch").write_text("test: tests/test_x.py::test_y\n--- a/x\n+++ b/x\n")
    with pytest.raises(ValueError, match="a.patch lacks a line"):
        read_faults(tmp_path)
