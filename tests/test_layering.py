"""The one direction of imports: no module imports one that stands to its right."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "svfit_diffusion"
ORDER = (
    *("toybox", "settings", "whole", "triples", "svd", "cache", "layer", "tuner", "attention"),
    *("selfcheck", "packing", "header", "concept", "hub", "trigger"),
    *("families", "prompts", "census", "verify", "matching", "pipeline"),
    *("photos", "pictures", "masks", "buckets", "examples", "encoding"),
    *("checkpoints", "generation", "class_images"),
    *("lora", "export", "lora_import", "combine", "publish"),
    *("subject", "objective", "backgrounds", "runtime", "length", "resume"),
    *("learned", "advice", "training", "demo"),
    *("features", "measures", "evaluate", "protocol", "benchmark"),
    *("web", "offload", "cli_files", "cli_evaluate", "cli_info", "cli"),
)


def imported(path):
    """Names of our own modules that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (name.split(".")[0] for name in names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("svfit_diffusion"):
            yield from node.module.split(".")[1:2]


def test_the_order_names_every_module():
    held = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/*.py")}
    assert held - {"__init__", "svfit_diffusion"} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_no_module_imports_to_its_right(name):
    files = [*PACKAGE.glob(f"{name}.py"), *PACKAGE.glob(f"{name}/*.py")]
    inside = {file.stem for file in PACKAGE.glob(f"{name}/*.py")}
    assert files
    for other in {other for file in files for other in imported(file)} - {"__version__"} - inside:
        assert ORDER.index(other) < ORDER.index(name), f"{name} imports {other}"


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_files_are_short(file):
    assert len(file.read_text().splitlines()) <= 260
