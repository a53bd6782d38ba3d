"""docs/architecture.md lists every private name of a library that is used, and each is there."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = ("accelerate", "diffusers", "gradio", "peft", "torch", "transformers")
TREES = [ast.parse(path.read_text()) for path in (ROOT / "svfit_diffusion").rglob("*.py")]
TABLE = (ROOT / "docs" / "architecture.md").read_text().partition("## Names of libraries")[2]
ROWS = [line.split("|")[1:-1] for line in TABLE.partition("\n## ")[0].splitlines()
        if line.startswith("| ")][1:]  # fmt: skip
LISTED = {name for row in ROWS for name in re.findall(r"`([\w.]+)`", row[0])}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def own_names():
    """Names that our own code defines: functions, classes, variables and attributes of self."""
    for node in (node for tree in TREES for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("self", "cls")
        ):
            yield node.attr


def overridden():
    """Private methods that call the one of a base class, and so are a library's."""
    for node in (node for tree in TREES for node in ast.walk(tree)):
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                name = getattr(part, "name", "")
                bases = "|".join(["super\\(\\)", *(ast.unparse(base) for base in node.bases)])
                if is_private(name) and re.search(rf"({bases})\.{name}\(", ast.unparse(part)):
                    yield name


def used():
    """Private names of libraries in the code."""
    own = set(own_names())
    for node in (node for tree in TREES for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and not node.level:
            for name in (alias.name for alias in node.names):
                parts = [*node.module.split("."), name]
                if parts[0] in LIBRARIES and any(map(is_private, parts)):
                    yield ".".join(parts)
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            private = re.fullmatch(r"_[a-z]+(_[a-z]+)+", node.value)  # of getattr and __dict__
            if private and node.value not in own and not hidden_in_ours(node.value):
                yield node.value
    yield from overridden()


def hidden_in_ours(text):
    """Names of attributes and files that we make up ourselves."""
    return text.startswith("_svfit") or text in ("_holder", "_expand_conv", "_depthwise_conv")


def test_every_private_name_is_listed():
    found = {name for name in used() if "._lazy" not in name}
    last = {name.rpartition(".")[2] for name in LISTED}
    missing = {name for name in found if name not in LISTED and name not in last}
    assert len(found) > 20 and not missing, missing


def test_nothing_is_listed_that_is_not_used():
    text = "\n".join(ast.unparse(tree) for tree in TREES)
    for name in LISTED:
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", text), name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip(" `")[:40])
def test_each_has_a_reason_and_a_test_that_is_there(row):
    assert len(row) == 4 and all(cell.strip() for cell in row)
    (path,) = re.findall(r"`(tests/[\w/.]+)`", row[3])
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("name", sorted(n for n in LISTED if n.partition(".")[0] in LIBRARIES))
def test_each_can_still_be_imported(name):
    module, _, last = name.rpartition(".")
    if "gguf" in name:
        pytest.importorskip("gguf")
    assert hasattr(importlib.import_module(module), last)


def test_methods_and_attributes_are_still_there(pipe):
    from accelerate import cpu_offload_with_hook
    from accelerate.state import AcceleratorState
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

    for name in sorted(LISTED):
        kind = {"BaseTuner": BaseTuner, "BaseTunerLayer": BaseTunerLayer, "PeftModel": PeftModel,
                "AcceleratorState": AcceleratorState}.get(name.partition(".")[0])  # fmt: skip
        assert kind is None or hasattr(kind, name.partition(".")[2]), name
    for name in ("_encode_plus", "_decode", "_convert_token_to_id_with_added_voc"):
        assert hasattr(pipe.tokenizer, name)
    assert Path(pipe.unet.config._name_or_path).is_dir() and Path(pipe.text_encoder.name_or_path)
    assert pipe.unet._hf_peft_config_loaded is False
    pipe.unet.enable_layerwise_casting()
    first = next(m for m in pipe.unet.modules() if "_diffusers_hook" in m.__dict__)
    assert first._diffusers_hook.get_hook("layerwise_casting")
    cpu_offload_with_hook(pipe.vae, "cpu")
    assert pipe.vae._hf_hook.prev_module_hook is None
