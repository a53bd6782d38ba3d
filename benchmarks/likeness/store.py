"""Where results of the likeness comparison are kept: a line for each run, with its base.

Results of another base are void, and are not read.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path

import platformdirs

RESULTS = Path(__file__).parent / "results"


@functools.cache
def base_name() -> str:
    """A short name for the base that results belong to."""
    from svfit_diffusion import toybox

    digest = hashlib.sha256()
    for path in sorted(toybox.path().rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def work_folder() -> Path:
    """The folder of runs and their pictures, outside the repository."""
    root = os.environ.get("LIKENESS_WORK") or platformdirs.user_cache_dir("svfit-likeness")
    return Path(root) / base_name()


def runs_file(stage: str, split: str) -> Path:
    """The file of a stage's results, one line per run."""
    return RESULTS / f"{stage}-{split}.jsonl"


def known(stage: str, split: str) -> dict[str, dict]:
    """JSON of a job -> its result, for a stage's jobs that were run on this base."""
    path = runs_file(stage, split)
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    entries = [json.loads(line) for line in lines]
    return {json.dumps(e["job"]): e["result"] for e in entries if e["base"] == base_name()}


def results_of(jobs: list[dict]) -> list[dict]:
    """The jobs of one stage and split that have a result, with it."""
    done = known(jobs[0]["stage"], jobs[0]["split"])
    keyed = ((job, json.dumps(job)) for job in jobs)
    return [{"job": job, "result": done[key]} for job, key in keyed if key in done]
