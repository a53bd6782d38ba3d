"""checkpoints.py: whole or not there, the old one kept until then, and never code."""

import contextlib
import logging
import os
import subprocess
import sys

import pytest
import torch

from svfit_diffusion.training import checkpoints
from svfit_diffusion.training.checkpoints import (
    Checkpoints,
    folder_lock,
    pack_optimizer,
    unpack_optimizer,
)

TENSORS = {"a": torch.arange(3.0)}


def names(store):
    return [path.name for path in store.held()]


def fill(folder, *steps, limit=None):
    store = Checkpoints(folder, limit)
    for step in steps:
        store.save(step, TENSORS, {"step": step})
    return store


def test_round_trip_and_limit(tmp_path):
    store = fill(tmp_path, 9, 10, 11, limit=2)
    assert names(store) == ["checkpoint-10", "checkpoint-11"]
    path, (tensors, settings) = store.load("latest")
    assert torch.equal(tensors["a"], TENSORS["a"]) and settings == {"step": 11}
    assert path.name == "checkpoint-11"
    store.save(11, {"a": torch.zeros(1)}, {"step": 11})
    assert store.load("checkpoint-11")[1][0]["a"].shape == (1,)
    held = {"manifest.json", "state.json", "state.safetensors"}
    assert {file.name for file in path.iterdir()} == held
    assert len(os.listdir(tmp_path)) == 2


def test_the_old_one_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    """Whichever of the writes is the first that fails."""
    fill(tmp_path, 1)
    replace_file, writes = checkpoints.replace_file, []

    def write(path, data):
        writes.append(path.name)
        if len(writes) == failing:
            raise OSError("disk full")
        return replace_file(path, data)

    monkeypatch.setattr(checkpoints, "replace_file", write)
    for failing in (1, 2, 3, 4):
        writes.clear()
        store = Checkpoints(tmp_path, 1)
        store.load("latest")
        with contextlib.suppress(OSError):
            store.save(2, TENSORS, {"step": 2})
        kept = "checkpoint-2" if failing == 4 else "checkpoint-1"
        assert names(store) == os.listdir(tmp_path) == [kept]
    assert writes[-1] == "manifest.json"  # the mark of a complete one comes last


def test_a_complete_one_whose_name_was_not_given_yet_is_taken(tmp_path):
    """A kill after the manifest and before the rename; also where the name is taken."""
    store = fill(tmp_path, 5, 6)
    os.rename(tmp_path / "checkpoint-6", tmp_path / ".checkpoint-6.tmp")
    (tmp_path / ".checkpoint-4.old").mkdir()
    (tmp_path / ".checkpoint-7.tmp").mkdir()
    (tmp_path / ".checkpoint-7.tmp" / "state.json").write_text("{}")
    (tmp_path / ".rex.safetensors.01234567.tmp").touch()
    os.utime(tmp_path / ".rex.safetensors.01234567.tmp", (1, 1))
    with folder_lock(tmp_path):
        assert names(store) == ["checkpoint-5", "checkpoint-6"]
    assert not list(tmp_path.glob(".checkpoint*")) and not list(tmp_path.glob(".rex*"))
    os.rename(tmp_path / "checkpoint-6", tmp_path / ".checkpoint-5.tmp")
    with folder_lock(tmp_path):
        assert names(store) == ["checkpoint-5"]
    assert store.load("latest")[1][1] == {"step": 6}


def test_what_is_of_an_earlier_training_goes_when_the_first_own_one_is_whole(tmp_path):
    fill(tmp_path, 300, 400)
    again = Checkpoints(tmp_path, limit=2)
    assert names(again) == ["checkpoint-300", "checkpoint-400"]
    again.save(100, TENSORS, {"step": 100})
    assert names(again) == ["checkpoint-100"]
    for step in (200, 300):
        again.save(step, TENSORS, {"step": step})
    back = Checkpoints(tmp_path, limit=2)
    back.load("checkpoint-200")
    back.save(250, TENSORS, {"step": 250})  # 300 is of a way that was left
    assert names(back) == ["checkpoint-200", "checkpoint-250"]


def test_latest_may_be_missing_but_a_named_one_may_not(tmp_path):
    assert Checkpoints(tmp_path).load("latest") is None
    store = fill(tmp_path, 5)
    path = tmp_path / "checkpoint-5"
    for wanted in ("latest", "checkpoint-5", str(path)):
        assert store.load(wanted)[0] == path
    with pytest.raises(ValueError, match="no complete checkpoint 'checkpoint-6'.*: checkpoint-5"):
        store.load("checkpoint-6")
    (path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no complete checkpoint 'checkpoint-5'.* holds: none"):
        store.load("checkpoint-5")


def damage(path, name, how):
    data = bytearray((path / name).read_bytes())
    if how == "gone":
        (path / name).unlink()
    elif how == "cut":
        (path / name).write_bytes(data[:-1])
    else:
        data[-1] ^= 1
        (path / name).write_bytes(data)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["gone", "cut", "one bit"])
def test_a_damaged_one_is_told_and_latest_takes_the_one_before(tmp_path, caplog, name, how):
    store = fill(tmp_path, 5, 6)
    damage(tmp_path / "checkpoint-6", name, how)
    with pytest.raises(ValueError, match="^(the|there is no complete) checkpoint .*checkpoint-6"):
        store.load("checkpoint-6")
    with caplog.at_level(logging.WARNING):
        assert store.load("latest")[0].name == "checkpoint-5"
    missing = (name, how) == ("manifest.json", "gone")  # then it was never complete
    assert missing or "checkpoint-6 is damaged" in caplog.text and "before it" in caplog.text
    damage(tmp_path / "checkpoint-5", "state.json", "cut")
    with pytest.raises(ValueError, match="no checkpoint in .* is whole; delete them to start anew"):
        store.load("latest")


def test_nothing_in_a_checkpoint_can_run_code(tmp_path, monkeypatch):
    store = fill(tmp_path, 5)
    import pickle

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_: pytest.fail("unpickled"))
    store.load("latest")
    for file in (tmp_path / "checkpoint-5").iterdir():
        assert file.suffix in (".json", ".safetensors")


HOLDER = """
import sys
from svfit_diffusion.training.checkpoints import folder_lock
with folder_lock(sys.argv[1]):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_is_refused_until_the_first_is_gone(tmp_path):
    command = [sys.executable, "-c", HOLDER, tmp_path]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert first.stdout.readline() == b"in\n"
        with pytest.raises(ValueError, match=f"another training is writing into {tmp_path};"):
            folder_lock(tmp_path).__enter__()
    finally:
        first.kill()  # however it ends
        first.communicate()
    with (
        folder_lock(tmp_path),
        pytest.raises(ValueError, match="another training"),
        folder_lock(tmp_path),
    ):
        pass


def test_optimizer_state_survives():
    def trained(steps, state=None):
        parameter = torch.nn.Parameter(torch.ones(4))
        optimizer = torch.optim.AdamW([parameter], lr=0.1)
        if state:
            parameter.data.copy_(state[0])
            unpack_optimizer(optimizer, state[1])
        for _ in range(steps):
            parameter.grad = parameter.detach() ** 2
            optimizer.step()
        return parameter.detach().clone(), pack_optimizer(optimizer)

    assert torch.equal(trained(5, trained(4))[0], trained(9)[0])
