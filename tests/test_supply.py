"""Dependencies and weights: pinned packages, models from safetensors, no foreign code."""

import ast
import json
import re
import shutil
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from svfit_diffusion.families import load_base

ROOT = Path(__file__).parents[1]
SOURCES = sorted((*ROOT.glob("*.py"), *ROOT.glob("svfit_diffusion/**/*.py")))
READERS = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
SAFE = {"svfit_diffusion/evaluation/features.py"}  # a pinned package's weights: a file of no user's


def unsafe(tree):
    """What in a module's tree could run the code of a file, or asks a library to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            yield from (name for name in names if name.split(".")[0] in READERS)
        elif isinstance(node, ast.Attribute) and node.attr == "load":
            if isinstance(node.value, ast.Name) and node.value.id == "torch":
                yield "torch.load"
        elif isinstance(node, ast.keyword | ast.Constant | ast.Name):
            name = getattr(node, "arg", None) or getattr(node, "value", None)
            name = getattr(node, "id", None) or name
            if name in ("trust_remote_code", "allow_pickle", "custom_pipeline"):
                yield name
        if isinstance(node, ast.keyword) and node.arg in ("use_safetensors", "weights_only"):
            value = getattr(node.value, "value", None)
            yield from () if value is True else (f"{node.arg} is not True",)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_of_ours_reads_pickles_or_runs_a_models_code(path):
    name = str(path.relative_to(ROOT))
    found = list(unsafe(ast.parse(path.read_text())))
    assert found == (["torch.load"] if name in SAFE else [])
    if found:
        assert "torch.load(path, weights_only=True)" in path.read_text()


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "f(**{'trust_remote_code': True})",
        "f(trust_remote_code=True)",
        "np.load(p, allow_pickle=True)",
        "f(use_safetensors=False)",
        "f(use_safetensors=None)",
        "torch.load(p, weights_only=False)",
        "f(custom_pipeline='x')",
    ],
)
def test_the_walk_sees_what_it_looks_for(code):
    assert list(unsafe(ast.parse(code)))


def test_weights_are_asked_for_as_safetensors_wherever_a_model_is_loaded():
    """from_pretrained of a model says use_safetensors=True; tokenizers and the like have none."""
    plain = {"AutoTokenizer", "AutoImageProcessor"}
    nodes = [(path, node) for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))]
    calls = [(path, node) for path, node in nodes if isinstance(node, ast.Call)]
    loads = [(p, n) for p, n in calls if getattr(n.func, "attr", "") == "from_pretrained"]
    models = [(p, n) for p, n in loads if getattr(n.func.value, "id", "") not in plain]
    assert len(models) >= 4
    for path, node in models:
        assert "use_safetensors" in {k.arg for k in node.keywords}, (path, node.lineno)


class Bomb:
    """A pickle of it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("ending", ["ckpt", "bin", "pt", "pth", "safetensors", "CKPT", ""])
def test_a_pickled_checkpoint_is_refused_and_not_run(tmp_path, ending):
    path = tmp_path / f"base.{ending}".rstrip(".")
    torch.save({"state_dict": Bomb(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match="safetensors") as caught:
        load_base(str(path))
    assert path.name in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_a_folder_with_pickled_weights_is_refused_by_name_and_not_run(base_folder, tmp_path, part):
    folder = tmp_path / "base"
    shutil.copytree(base_folder, folder)
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
    name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    torch.save({"x": Bomb(tmp_path / "ran")}, folder / part / name)
    with pytest.raises(ValueError, match=f"{part}/{name} of the base 'base' is a pickle"):
        load_base(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": ["pipeline", "Evil"]},
        {"_class_name": "../pipeline"},
        {"unet": ["pipeline", "Evil"]},
        {"scheduler": ["pipeline", "Evil"]},
    ],
)
def test_a_folder_with_code_of_its_own_is_refused_and_not_run(base_folder, tmp_path, changes):
    folder = tmp_path / "base"
    shutil.copytree(base_folder, folder)
    ran = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    code = ran + "class Evil:\n    def from_pretrained(*a, **b): pass\n"
    for place in (folder, folder / "unet", folder / "scheduler"):
        (place / "pipeline.py").write_text(code)
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))
    with pytest.raises(ValueError) as caught:
        load_base(str(folder))
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LISTS = {"demo": ("app", "train"), "test": ("test",)}
LISTS |= {extra: ("test", extra) for extra in ("bench", "browser")}
UNHASHED = {"torch", "svfit-diffusion"}  # requirements/lock.py says why; ourselves


def locked(text):
    """Package -> its requirement, and the hashes, of a list as pip reads it."""
    found = {}
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            wanted = Requirement(line.partition(" --hash")[0])
            found[canonicalize_name(wanted.name)] = wanted, re.findall(r"--hash=(\S+)", line)
    return found


def wanted(extras):
    """The requirements of the package with these extras, extras of its own followed."""
    lines = [*PROJECT["dependencies"]]
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    for line in lines:
        need = Requirement(line)
        if need.name == PROJECT["name"]:
            yield from wanted(need.extras)
        else:
            yield need


def test_every_dependency_is_locked_at_a_version_that_fits():
    pins = locked((ROOT / "constraints.txt").read_text())
    for name, extras in LISTS.items():
        held = locked((ROOT / "requirements" / f"{name}.txt").read_text())
        for need in wanted(extras):
            key = canonicalize_name(need.name)
            if key in UNHASHED:
                assert need.specifier.contains(str(pins[key][0].specifier).removeprefix("=="))
                continue
            version = str(held[key][0].specifier).removeprefix("==")
            assert need.specifier.contains(version), f"{key} {version}: {name}.txt is old"


def test_every_package_that_is_imported_is_declared():
    """Not only by way of another package, which may stop needing it."""
    extras = PROJECT["optional-dependencies"]
    declared = {canonicalize_name(need.name) for need in wanted(extras)} | {"svfit-diffusion"}
    homes = packages_distributions()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names:
                found = {canonicalize_name(home) for home in homes.get(name, [name])}
                assert found & declared, f"{path} imports {name}, missing in pyproject.toml"


def test_nothing_is_installed_without_a_hash_or_from_an_address():
    pins = locked((ROOT / "constraints.txt").read_text())
    for name in LISTS:
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        assert "://" not in text and "--index" not in text and "--find" not in text
        held = locked(text)
        assert len(held) > 50
        for key, (need, hashes) in held.items():
            assert re.fullmatch(r"==[\w.+!]+", str(need.specifier)), key
            assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), key
            assert key not in pins or pins[key][0].specifier == need.specifier, f"{name}.txt is old"
    makefile = (ROOT / "Makefile").read_text()
    installs = [line for line in makefile.splitlines() if " install " in line]
    installs = [line for line in installs if "$(NEWEST)/bin" not in line]  # an environment to try
    safe = ("--require-hashes --no-deps", "--no-deps --no-build-isolation", "constraints.txt torch")
    assert installs and all(any(s in line for s in safe) for line in installs)
