"""Trainings that are killed, interrupted, or find the disk full; every one is a real process."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from helpers.tiny_pipelines import run

from svfit_diffusion.concept.file import read_concept
from svfit_diffusion.training.checkpoints import Checkpoints

resource = pytest.importorskip("resource", reason="signals and limits of Unix")
TIMEOUT = 300  # seconds, on a machine with other things to do


@pytest.fixture(scope="module")
def trainings():
    """`trainings(config, ...)` runs one as killed.py says."""
    command = [sys.executable, str(Path(__file__).parents[1] / "helpers" / "killed.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:

        def one(config, **order):
            order["config"] = asdict(config)
            print(json.dumps(order), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield one
        process.stdin.close()


@pytest.fixture
def whole(config, trainings):
    """A training of many checkpoints, that was never stopped, and what its last one holds."""

    def trained(steps):
        given = replace(config, max_train_steps=steps, checkpointing_steps=1)
        unbroken = replace(given, output_dir=str(Path(config.output_dir).parent / "whole" / "rex"))
        done = trainings(unbroken)
        assert done["status"] == 0 and done["steps"] == len(done["saves"]) == steps
        return given, unbroken, done["saves"]

    return trained


def newest(config):
    """Step of the newest checkpoint, which must be whole; 0 without any. Left-overs may lie about,
    but under no name of a checkpoint.
    """
    store = Checkpoints(config.output_dir)
    held = store.held()
    return store.load(held[-1].name)[1][1]["step"] if held else 0


def ends_the_same(config, unbroken):
    state = [Path(c.output_dir) / f"checkpoint-{c.max_train_steps}" for c in (config, unbroken)]
    same = [(path / "state.safetensors").read_bytes() for path in state]
    concepts = [read_concept(c.concept_path).deltas.tobytes() for c in (config, unbroken)]
    left = sorted(p.name for p in Path(config.output_dir).iterdir())
    kept = [f"checkpoint-{config.max_train_steps - 1}", f"checkpoint-{config.max_train_steps}"]
    clean = left == sorted([".training.lock", *kept, "rex.safetensors", "run.yaml"])
    return clean and same[0] == same[1] and concepts[0] == concepts[1]


def kill_inside(config, trainings, events):
    """Kill one training after the other at these events of its second checkpoint."""
    config, reached = replace(config, resume_from_checkpoint="latest"), 0
    for event in events:
        done = trainings(config, save=2, event=event)
        assert done["status"] == -signal.SIGKILL and done["steps"] == 1
        assert newest(config) in (reached + 1, reached + 2), event
        # What is complete, but was killed before it had its name, counts from the next start on.
        reached += 1 + bool(list(Path(config.output_dir).glob(".checkpoint-*/manifest.json")))
        reached = max(reached, newest(config))
    return config


def test_a_kill_inside_a_checkpoint_loses_nothing(whole, trainings):
    config, unbroken, saves = whole(8)
    events = saves[3]  # the third is the first that deletes another
    assert events == saves[4] and {"fsync", "half", "os.rename", "os.rmdir"} <= set(events)
    assert events[-1] == "os.rmdir"  # of the one that was deleted
    points = [events.index("half") + 1, len(events)]
    config = kill_inside(config, trainings, points)
    assert trainings(config)["status"] == 0 and ends_the_same(config, unbroken)


@pytest.mark.slow
def test_a_kill_at_every_point_of_a_checkpoint(whole, trainings):
    config, unbroken, saves = whole(90)
    count = len(saves[5])
    config = kill_inside(config, trainings, range(1, count + 1))
    print(f"{count} kills inside the write of a checkpoint, at {' '.join(saves[5])}")
    assert count >= 25
    assert trainings(config)["status"] == 0 and ends_the_same(config, unbroken)


@pytest.mark.slow
def test_kills_at_any_time(whole, trainings):
    config, unbroken, _ = whole(400)
    config, reached, numbers = replace(config, resume_from_checkpoint="latest"), 0, random.Random(0)
    for i in range(30):
        when = {"early": numbers.uniform(0, 1)} if i % 6 == 5 else {"delay": numbers.random() / 4}
        assert trainings(config, **when)["status"] == -signal.SIGKILL
        now = newest(config)
        assert now >= reached
        reached = now
    print(f"30 kills at any time, {reached} of 400 steps done by then")
    assert 0 < reached < 400
    assert trainings(config)["status"] == 0 and ends_the_same(config, unbroken)


def command_line(config, *more):
    command = [sys.executable, "-m", "svfit_diffusion.cli", "train", *more]
    names = ("pretrained_model_name_or_path", "instance_data_dir", "instance_prompt", "output_dir")
    for name in (*names, "rank", "max_train_steps", "train_batch_size"):
        command += [f"--{name}", str(getattr(config, name))]
    return command


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_keeps_what_was_learned(config, number, status):
    config = replace(config, max_train_steps=100_000)
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command_line(config), **pipes)
    seen = b""
    while b"loss=" not in seen:  # the bar shows that steps are being done
        seen += process.stderr.read1()
        assert process.poll() is None, seen
    time.sleep(1)
    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status, err
    assert b"Traceback" not in err and b"interrupted" in err
    steps = read_concept(config.concept_path).training["steps"]
    assert 0 < steps < 100_000 and newest(config) == steps
    assert run(config, resume_from_checkpoint="latest", max_train_steps=steps + 1).steps > steps


def fails_in_a_sentence(config, reason, **more):
    """Going on from one step fails for `reason`, and all that was there is as it was."""
    before = {p: p.read_bytes() for p in Path(config.output_dir).rglob("*") if p.is_file()}
    command = command_line(config, "--resume_from_checkpoint", "latest")
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, **more)
    said = [line for line in done.stderr.splitlines() if "could not be written" in line]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len(said) == 1 and re.fullmatch(rf"svfit: .*: {reason}[^.]*\.", said[0]), done.stderr
    after = {p: p.read_bytes() for p in Path(config.output_dir).rglob("*") if p.is_file()}
    assert after == before


@pytest.mark.slow
def test_a_file_size_limit_is_told_and_costs_nothing(config):
    run(config, max_train_steps=1)  # the cached basis is there from now on

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    fails_in_a_sentence(config, "File too large", preexec_fn=limited)


@pytest.mark.slow
def test_a_full_disk_is_told_and_costs_nothing(config, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        config = replace(config, output_dir=str(disk / "rex"))
        run(config, max_train_steps=1)
        with pytest.raises(OSError), open(disk / "filler", "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        fails_in_a_sentence(config, "No space left on device")
        os.remove(disk / "filler")
        assert run(config, resume_from_checkpoint="latest").steps == config.max_train_steps
    finally:
        subprocess.run(["umount", str(disk)], check=True)
