"""web.studio.temporary_files: old files are deleted, and the oldest where there are too many."""

import asyncio
import time
from types import SimpleNamespace

from svfit_diffusion.web.studio import temporary_files


def test_a_sweep_takes_the_old_and_the_oldest_beyond_the_limit_and_follows_no_link(
    tmp_path, monkeypatch
):
    outside, folder = tmp_path / "outside", tmp_path / "app"
    for path in (outside / "mine", folder / "old" / "a"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 100)
    (folder / "link").symlink_to(outside)
    time.sleep(0.6)
    (folder / "new").mkdir()
    for number in range(3):
        (folder / "new" / str(number)).write_bytes(b"x" * 100)
        time.sleep(0.02)
    made = [path.stat().st_ctime for path in (folder / "old" / "a", folder / "new" / "0")]
    now = time.time()  # stands still, so that a busy machine does not make the new ones old
    monkeypatch.setattr(temporary_files, "time", SimpleNamespace(time=lambda: now))
    temporary_files.sweep(folder, now - sum(made) / 2, 10_000)
    assert not (folder / "old" / "a").exists() and not (folder / "link").is_symlink()
    assert (outside / "mine").exists() and len(list((folder / "new").iterdir())) == 3
    temporary_files.sweep(folder, 60, 250)
    assert {p.name for p in (folder / "new").iterdir()} == {"1", "2"}
    asyncio.run(temporary_files.sweep_app_folder(folder))
    assert {p.name for p in (folder / "new").iterdir()} == {"1", "2"}


def test_what_visitors_have_is_not_swept(tmp_path):
    """What all are offered is older than a day some time."""
    for folder in ("visits/a/concepts", "made/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "rex.safetensors").write_bytes(b"x" * 100)
    temporary_files.sweep(tmp_path, -1, 10)
    assert [path.parent.parent.name for path in tmp_path.rglob("*.safetensors")] == ["a"]
    assert not (tmp_path / "made").exists()
