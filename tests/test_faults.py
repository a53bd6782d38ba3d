"""tests/faults: every fault can still be put in, and names a test that is there."""

import ast
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "faults"))
from run import HERE, ROOT, apply, read_faults

FAULTS = read_faults()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.path.stem)
def test_a_fault_applies_and_its_test_exists(fault):
    assert apply(ROOT, fault, "--check") == ""
    file, _, name = fault.test.partition("::")
    found = {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert name.partition("[")[0] in found


def test_a_patch_that_says_nothing_is_refused(tmp_path):
    assert FAULTS and all(fault.path.parent == HERE for fault in FAULTS)
    (tmp_path / "a.patch").write_text("test: tests/test_x.py::test_y\n--- a/x\n+++ b/x\n")
    with pytest.raises(ValueError, match="a.patch lacks a line"):
        read_faults(tmp_path)
