"""checkpoints.py: whole or not there."""

import os

import pytest
import torch

from svfit_diffusion.checkpoints import (
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    pack_optimizer,
    save_checkpoint,
    unpack_optimizer,
)

TENSORS = {"a": torch.arange(3.0)}


def names(folder):
    return [path.name for path in list_checkpoints(folder)]


def test_round_trip_and_limit(tmp_path):
    for step in (9, 10, 11):
        save_checkpoint(tmp_path, step, TENSORS, {"step": step}, limit=2)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-11"]
    tensors, settings = load_checkpoint(tmp_path / "checkpoint-11")
    assert torch.equal(tensors["a"], TENSORS["a"]) and settings == {"step": 11}
    save_checkpoint(tmp_path, 11, {"a": torch.zeros(1)}, {"step": 11}, limit=None)
    assert load_checkpoint(tmp_path / "checkpoint-11")[0]["a"].shape == (1,)


def test_the_old_one_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, TENSORS, {"step": 1}, limit=1)

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        save_checkpoint(tmp_path, 2, TENSORS, {"step": 2}, limit=1)
    assert names(tmp_path) == ["checkpoint-1"]


def test_latest_may_be_missing_but_a_named_one_may_not(tmp_path):
    assert find_checkpoint(tmp_path, "latest") is None
    path = save_checkpoint(tmp_path, 5, TENSORS, {}, limit=None)
    assert find_checkpoint(tmp_path, "latest") == path
    assert find_checkpoint(tmp_path, "checkpoint-5") == find_checkpoint(tmp_path, str(path)) == path
    with pytest.raises(ValueError, match="no checkpoint 'checkpoint-6'.*holds: checkpoint-5"):
        find_checkpoint(tmp_path, "checkpoint-6")


def test_a_damaged_one_is_told(tmp_path):
    path = save_checkpoint(tmp_path, 5, TENSORS, {}, limit=None)
    (path / "state.safetensors").write_bytes(b"oops")
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(path)


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
