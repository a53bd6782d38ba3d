"""A file is the old one or the new one, never incomplete, and its mode follows the umask."""

import os
import subprocess
import sys

import pytest

from svfit_diffusion.concept.atomic import atomic_write, remove_leftovers, replace_file

try:
    import resource
except ImportError:  # of Unix
    resource = None


def test_a_file_is_replaced_with_the_mode_of_the_umask(tmp_path):
    path = tmp_path / "deep" / "a.bin"
    old = os.umask(0o027)
    try:
        assert replace_file(path, b"1") == path
        replace_file(path, b"22")
        with atomic_write(path) as fresh:  # as safetensors does: a file of its own, in private mode
            other = fresh.with_suffix(".other")
            other.write_bytes(b"333")
            other.chmod(0o600)
            os.replace(other, fresh)
    finally:
        os.umask(old)
    assert path.read_bytes() == b"333" and path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == ["a.bin"]


def test_the_file_and_then_its_name_are_on_the_disk(tmp_path, monkeypatch):
    """What is synced, and when: the contents before the rename, the folder after it."""
    path, calls, replace, fsync = tmp_path / "a", [], os.replace, os.fsync

    def noted(handle):
        calls.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    replace_file(path, b"1")
    file, rename, folder = calls
    assert file.endswith(".tmp") and rename == "rename" and folder == str(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_good_file_and_nothing_beside_it(tmp_path, monkeypatch, call):
    path = replace_file(tmp_path / "a", b"good")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    message = f"^{path} could not be written: No space left on device; the file .* is untouched.$"
    with pytest.raises(OSError, match=message):
        replace_file(path, b"new")
    assert path.read_bytes() == b"good" and os.listdir(tmp_path) == ["a"]
    with pytest.raises(OSError, match="could not be written: No space left on device.$"):
        replace_file(tmp_path / "b", b"new")


KILLED = """
import os, sys
from svfit_diffusion.concept.atomic import atomic_write
with atomic_write(sys.argv[1]) as fresh:
    fresh.write_bytes(b"half")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_write_left_is_swept_once_it_is_nobodys(tmp_path):
    path = replace_file(tmp_path / "a", b"good")
    assert subprocess.run([sys.executable, "-c", KILLED, path]).returncode == -9
    (left,) = tmp_path.glob(".a.*.tmp")
    remove_leftovers(tmp_path)  # for all we know it is being written
    assert left.exists() and path.read_bytes() == b"good"
    others = [tmp_path / ".a.tmp", tmp_path / "b.01234567.tmp", tmp_path / ".c.0123456x.tmp"]
    for file in (left, *others):
        file.touch()
        os.utime(file, (1, 1))
    remove_leftovers(tmp_path)
    assert not left.exists() and all(file.exists() for file in others)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from svfit_diffusion.concept.atomic import replace_file
try:
    replace_file(sys.argv[1], b"x" * 2000)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(resource is None, reason="a limit of Unix")
def test_a_file_that_finds_no_room_leaves_the_good_one(tmp_path):
    path = replace_file(tmp_path / "a", b"good")
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1 and "File too large; the file" in done.stdout, done.stderr
    assert path.read_bytes() == b"good" and os.listdir(tmp_path) == ["a"]
