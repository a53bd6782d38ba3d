"""What the node needs of the package: nothing of diffusers, transformers or peft; one source."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import svfit_diffusion

ROOT = Path(__file__).parents[2]
NODE = ROOT / "integrations" / "comfyui"
TOOLS = {"examples.py", "pack.py"}  # of this repository, not published
FILES = sorted(path for path in NODE.glob("*.py") if path.name not in TOOLS)

HEAVY = ("diffusers", "transformers", "peft", "accelerate", "gradio")

# In a process where the heavy libraries cannot be imported: a basis is computed of weights that
# another program holds, found in the cache again, and a concept file is read.
LIGHT = """
import sys
class Heavy:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[3:]:
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, Heavy())
sys.path.insert(0, sys.argv[1])
import torch
from svfit_diffusion.adapter import Basis, bases_of, held_weights
from svfit_diffusion.concept import read_concept, layout_hash, printable, self_check_rows
from svfit_diffusion.pipeline import check_strength, trigger_clash
from svfit_diffusion.pipeline.word import find_words
weight = torch.randn(24, 16, dtype=torch.float64).half()
held = held_weights({"a.q": (24, 16)}, "float16", "", lambda name: weight.float())
known = held.fingerprint()
found = bases_of(held_weights({"a.q": (24, 16)}, "float16", known, lambda name: weight), {"a.q": 4})
def missing(name):
    raise KeyError(name)
again = bases_of(held_weights({"a.q": (24, 16)}, "float16", known, missing), {"a.q": 4})
assert torch.equal(found["a.q"].U, again["a.q"].U)
assert torch.allclose(found["a.q"].s, torch.linalg.svdvals(weight.float())[:4], rtol=1e-4)
try:
    bases_of(held_weights({"a.q": (24, 16)}, "float16", "0" * 32, missing), {"a.q": 4})
except KeyError:
    pass
else:
    raise AssertionError("another base's weights were found")
print(read_concept(sys.argv[2]).trigger, find_words.__module__)
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The folder that is published."""
    folder = tmp_path_factory.mktemp("packed") / "comfyui-svfit"
    subprocess.run([sys.executable, NODE / "pack.py", folder], check=True)
    return folder


@pytest.mark.parametrize("where", ["clone", "packed"])
def test_the_rooms_that_the_node_uses_are_light(where, packed, tmp_path, monkeypatch):
    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path))
    home = ROOT if where == "clone" else packed / "vendor"
    more = ("wrapt",) if where == "packed" else ()  # by which the package tells peft of itself
    sample = ROOT / "samples" / "robot" / "robot.safetensors"
    done = subprocess.run(
        [sys.executable, "-B", "-P", "-c", LIGHT, home, sample, *HEAVY, *more],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "SVFIT_CACHE": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "svfit_diffusion.pipeline.word.words" in done.stdout


def test_the_packed_folder_has_all_files_of_the_node_and_will_not_be_overwritten(packed):
    assert {p.name for p in packed.glob("*.py")} == {p.name for p in FILES}
    assert not list(packed.rglob("__pycache__"))
    again = subprocess.run(
        [sys.executable, NODE / "pack.py", packed], capture_output=True, text=True
    )
    assert again.returncode and "is there already" in again.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.name)
def test_the_node_imports_names_that_rooms_list(file):
    """And no library but ComfyUI's own, and those that its requirements name."""
    text = tomllib.loads((NODE / "pyproject.toml").read_text())
    named = {line.split(">=")[0] for line in text["project"]["dependencies"]}
    assert text["project"]["version"] == svfit_diffusion.__version__
    assert named == {
        line.split(">=")[0] for line in (NODE / "requirements.txt").read_text().split()
    }
    own = {"torch", "comfy", "folder_paths"} | named | sys.stdlib_module_names
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module]
        else:
            continue
        for module in modules:
            top = module.split(".")[0]
            assert top in own or top == "svfit_diffusion", module
            if top == "svfit_diffusion" and isinstance(node, ast.ImportFrom):
                room = __import__(module, fromlist=["__all__"])
                assert {alias.name for alias in node.names} <= set(room.__all__), module
