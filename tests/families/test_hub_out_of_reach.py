"""hub.py: a Hub that cannot be reached is said at once, with what the local cache holds."""

import time

import pytest
from huggingface_hub import constants

from svfit_diffusion.families import family_of, load_base
from svfit_diffusion.families import hub as families_hub


@pytest.fixture
def closed(monkeypatch, tmp_path):
    """A Hub at a port where nobody listens, and a cache that holds two models."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("models--me--tiny", "models--you--small", "datasets--me--dogs"):
        (tmp_path / name / "snapshots" / "0").mkdir(parents=True)


def test_it_is_said_at_once_with_what_is_in_the_cache(closed, capfd):
    start = time.monotonic()
    for wanted in (load_base, family_of):
        with pytest.raises(ValueError) as error:
            wanted("nobody/nothing")
        assert "the Hub cannot be reached, and the local cache holds me/tiny, you/small)" in str(
            error.value
        )
    with pytest.raises(ValueError, match="the local cache does not hold all of it"):
        load_base("me/tiny")
    assert time.monotonic() - start < 10 and "Retrying" not in capfd.readouterr().err


def test_it_is_asked_for_hub_ids_alone(closed, base_folder, monkeypatch):
    monkeypatch.setattr(families_hub, "reachable", lambda: pytest.fail("asked"))
    load_base(str(base_folder))
    assert family_of("toybox").name == "sd"
