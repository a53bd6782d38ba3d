"""PEFT's own test-suite on our tuner; and a safe merge, which the suite does not look into.

The suite comes from PEFT's source distribution at test time and is kept in the user's cache.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from platformdirs import user_cache_path
from torch import nn

from svfit_diffusion import SVFitConfig

PASSED, SKIPPED, FAILING = 739, 61, 60  # at least, at most, exactly


def peft_source() -> Path:
    """Folder of PEFT's source distribution, of the version that is installed."""
    version = importlib.metadata.version("peft")
    cache = user_cache_path("svfit-diffusion") / "tests"
    folder = cache / f"peft-{version}"
    if not (folder / "tests" / "__init__.py").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", f"peft=={version}", "--dest", cache]
        command += ["--no-binary", "peft", "--no-deps", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            pytest.skip(f"PEFT's source cannot be fetched: {done.stderr.strip()[-200:]}")
        with tarfile.open(cache / f"peft-{version}.tar.gz") as archive:
            archive.extractall(cache, filter="data")
        (folder / "tests" / "__init__.py").touch()  # it imports relatively, as a package
    return folder


@pytest.mark.slow
def test_pefts_own_suite_on_our_tuner(tmp_path):
    paths = [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "peft_cases", "-q", "-rfEs", "--tb=short"]
    command += ["-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider"]
    command += ["tests/test_custom_models.py"]
    done = subprocess.run(
        command, cwd=peft_source(), env=environment, capture_output=True, text=True, timeout=3000
    )
    last = done.stdout.strip().splitlines()[-1]
    print(*(x for x in done.stdout.splitlines() if x.startswith("SKIPPED")), last, sep="\n")
    found = {name: int(count) for count, name in re.findall(r"(\d+) (\w+)", last)}
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert found["passed"] >= PASSED and found["skipped"] <= SKIPPED, last
    assert found["xfailed"] == FAILING, last


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("how", ["merge_adapter", "merge_and_unload"])
def test_a_safe_merge_of_what_is_not_finite_is_refused_and_changes_nothing(broken, how):
    """Also where layers before it are in order. 1e38 is finite, but no weight of fp16 holds it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).half()
    before = [p.clone() for p in model.parameters()]
    tuned = get_peft_model(model, SVFitConfig(r=2, target_modules=["0", "1"], init_weights=False))
    first, second = tuned.base_model.model
    with torch.no_grad():
        second.svfit_delta["default"][0] = broken
    with pytest.raises(ValueError, match="would put NaN or infinity into a weight"):
        getattr(tuned, how)(safe_merge=True)
    assert not first.merged and not second.merged
    after = [p for layer in (first, second) for p in layer.base_layer.parameters()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    with torch.no_grad():
        second.svfit_delta["default"][0] = 0
    getattr(tuned, how)(safe_merge=True)
    assert not torch.equal(first.base_layer.weight, before[0])
