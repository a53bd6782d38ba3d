"""docs/app-api.md: its code runs as it is written, and its table has the app's endpoints."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gradio_client import Client
from PIL import Image

from svfit_diffusion.generation.pictures import read_parameters
from svfit_diffusion.training.subject import sample_folder

DOCUMENT = (Path(__file__).parents[2] / "docs" / "app-api.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture
def short_code(url):
    """The code for the app under test, with a training of two steps and pictures of two."""
    code = CODE.replace("http://127.0.0.1:7860", url)
    for endpoint, steps in (("/train", "max_train_steps=2"), ("/generate", "steps=2")):
        code = code.replace(f'api_name="{endpoint}"', f'{steps}, api_name="{endpoint}"')
    return code


def test_the_code_trains_generates_renames_and_exports(short_code, workspace, tmp_path):
    (tmp_path / "photos").mkdir()
    for number, path in enumerate(sorted(sample_folder().glob("*.png"))[:5]):
        Image.open(path).convert("RGB").save(tmp_path / "photos" / f"{number}.jpg")
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # where the client downloads to
    command = [sys.executable, "-c", short_code]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=540
    )
    assert ran.returncode == 0, ran.stderr
    *_, listed, archive = ran.stdout.strip().splitlines()
    pictures = [read_parameters(path) for path in re.findall(r"'([^']+\.png)'", listed)]
    run = workspace.runs.latest().status()
    assert [found.seed for found in pictures] == [7, 8]
    assert all(found.concepts == ((run["concept"], 0.8),) for found in pictures)
    assert run["trigger"] in pictures[0].prompt
    assert workspace.library.get(run["concept"]).card.trigger == "myrex dog"
    assert archive.endswith(".zip") and Path(archive).stat().st_size > 1_000


def test_the_table_has_every_endpoint_with_its_parameters(url):
    rows = re.findall(r"^\| (`/.*?) \| (.*?) ?\|", DOCUMENT, re.MULTILINE)
    said = {name: given for names, given in rows for name in re.findall(r"`(/\w+)`", names)}
    endpoints = Client(url, verbose=False).view_api(return_format="dict")["named_endpoints"]
    assert set(said) == set(endpoints)
    for name, info in endpoints.items():
        names = [parameter["parameter_name"] for parameter in info["parameters"]]
        assert re.sub(r" `.*?`", "", said[name]).split(", ") == (names or [""]), name
