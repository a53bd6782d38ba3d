"""Run the Dockerfile where there is no Docker: its own lines, in a root of their own.

    sudo python tests/dockerfile_steps.py [--build-arg NAME=VALUE ...] [--bind PATH ...]

The root has the system's /usr, read-only, a new environment of this Python in /usr/local, and
nothing else; /app has what COPY takes of the files that git knows. Each RUN is run there by
`chroot`, then CMD as USER without a network but its own, first without and then with a password,
and HEALTHCHECK beside it. Needs Linux, root, and a registry for pip. What is mounted is so in a
mount namespace, which goes with its process, and the root goes after it.

--bind: more folders of the system that are to be seen, such as those that pip finds wheels in.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
KNOWN = ("FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK",
         "CMD")  # fmt: skip
ETC = ("login.defs", "resolv.conf", "hosts", "nsswitch.conf", "ssl",
       "ca-certificates", "ld.so.cache", "ld.so.conf", "alternatives", "default")  # fmt: skip
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"  # as the image has it
CHROOT = shutil.which("chroot") or "chroot"  # found here: the image's PATH is another
START = 240  # seconds that the app may take until its health check is answered


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, in order; ValueError for one that is not known here."""
    whole = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    found = [tuple(line.split(maxsplit=1)) for line in whole.splitlines() if line.strip()]
    for name, _ in found:
        if name not in KNOWN:
            raise ValueError(f"The Dockerfile has {name}, which {Path(__file__).name} cannot run.")
    return found


def context(root: Path = ROOT) -> list[Path]:
    """The files that COPY can take: those that git knows, less those of .dockerignore."""
    ignored = (root / ".dockerignore").read_text().split()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True)
    paths = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if not any(_matches(path, each) for each in ignored)]


def _matches(path: Path, pattern: str) -> bool:
    """Whether a line of .dockerignore leaves a path out: itself, or a folder above it."""
    above = [str(path), *map(str, path.parents)]
    if pattern.startswith("**/"):
        return any(fnmatch.fnmatch(part, pattern[3:]) for part in path.parts)
    return any(fnmatch.fnmatch(each, pattern) for each in above)


def _copy_system_users(etc: Path) -> None:
    """The system's own users and groups, without the people who use it."""
    known = {line.split(":")[0] for line in _system_lines("passwd") + _system_lines("group")}
    for name in ("passwd", "group"):
        (etc / name).write_text("".join(_system_lines(name)))
    (etc / "shadow").write_text("".join(f"{name}:*:::::::\n" for name in sorted(known)))


def _system_lines(name: str) -> list[str]:
    """The lines of /etc/passwd or /etc/group whose number is below 1000."""
    lines = Path("/etc", name).read_text().splitlines(keepends=True)
    return [line for line in lines if int(line.split(":")[2]) < 1000]


class CleanRoot:
    """A root to run a Dockerfile's lines in. environment: what ARG and ENV have set so far."""

    def __init__(self, folder: Path, binds: list[str]) -> None:
        self.folder, self.workdir, self.user = folder, Path("/"), "0"
        passed = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
        self.environment = passed | {"PATH": PATH, "HOME": "/root"}
        for link in ("bin", "sbin", "lib", "lib64"):  # into /usr
            if (source := Path("/", link)).is_symlink():
                (folder / link).symlink_to(os.readlink(source))
        for name in ("dev", "proc", "tmp", "root", "usr", "etc", "local"):
            (folder / name).mkdir()
        (folder / "tmp").chmod(0o1777)
        for name in ETC:
            if (source := Path("/etc", name)).is_dir():
                shutil.copytree(source, folder / "etc" / name, symlinks=True)
            elif source.exists():
                shutil.copy(source, folder / "etc" / name)
        _copy_system_users(folder / "etc")
        self._bind("/usr", "ro")
        self._mount("--bind", folder / "local", folder / "usr" / "local")
        for path in ("/dev", sys.base_prefix, *binds):
            self._bind(path)
        self._mount("-t", "proc", "proc", folder / "proc")
        python = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
        self.run([str(python), "-m", "venv", "/usr/local"])

    def _bind(self, path: str, *options: str) -> None:
        target = self.folder / path.lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        self._mount("--rbind", path, target)
        if options:
            self._mount("-o", f"remount,bind,{','.join(options)}", target)

    @staticmethod
    def _mount(*words: object) -> None:
        subprocess.run(["mount", *map(str, words)], check=True)

    def command(self, words: list[str]) -> list[str]:
        """How to run a command in the root, at its WORKDIR, as its USER."""
        inside = f"cd {self.workdir} && exec {shlex.join(words)}"
        user = f"--userspec={self.user}:{self.user}"
        return [CHROOT, user, str(self.folder), "/bin/sh", "-c", inside]

    def run(self, words: list[str]) -> None:
        """Run a command in the root; CalledProcessError if it fails."""
        subprocess.run(self.command(words), env=self.environment, check=True)

    def expanded(self, text: str) -> str:
        """A text with the variables that ARG and ENV have set."""
        return re.sub(r"\$\{?(\w+)\}?", lambda m: self.environment.get(m[1], ""), text)

    def copy(self, names: list[str]) -> None:
        """COPY: files of the context, or all of it, into a folder."""
        *sources, target = names
        place = self.folder / str(self.workdir / target).lstrip("/")
        for path in context():
            for source in sources:
                if source == "." or str(path) == source:
                    to = place / (path if source == "." else path.name)
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / path, to)


def build(root: CleanRoot, lines: list[tuple[str, str]], arguments: dict[str, str]) -> None:
    """Do what the Dockerfile says, up to CMD."""
    for name, text in lines:
        print(f"{name} {text}", flush=True)
        if name == "ARG":
            key, _, value = text.partition("=")
            root.environment[key] = arguments.get(key, value)
        elif name == "ENV":
            for word in shlex.split(text):
                key, _, value = word.partition("=")
                root.environment[key] = root.expanded(value)
        elif name == "WORKDIR":
            root.workdir = Path(text)
            (root.folder / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            root.copy(text.split())
        elif name == "RUN":
            start = time.monotonic()
            root.run(["/bin/sh", "-c", text])
            print(f"  {time.monotonic() - start:.0f} s", flush=True)
        elif name == "USER":
            root.user = text
            root.environment["HOME"] = "/home/svfit"


def check(root: CleanRoot, lines: list[tuple[str, str]]) -> None:
    """Start CMD in a network of its own and ask HEALTHCHECK, then look at the volume."""
    said = dict(lines)
    words = json.loads(said["CMD"])
    refused = subprocess.run(
        root.command(words), env=root.environment, capture_output=True, text=True
    )
    assert refused.returncode and "SVFIT_AUTH" in refused.stderr, refused.stderr
    own = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    health = json.loads(said["HEALTHCHECK"].partition("CMD ")[2])
    with subprocess.Popen(
        [*own, *root.command(words)], env=root.environment | {"SVFIT_AUTH": "me:secret"}
    ) as app:
        inside = ["nsenter", "--net", f"--target={app.pid}", "--"]
        try:
            start = time.monotonic()
            while subprocess.run(
                [*inside, *root.command(health)], env=root.environment, capture_output=True
            ).returncode:
                assert app.poll() is None, "the app ended"
                assert time.monotonic() - start < START, "the health check is not answered"
                time.sleep(1)
            print(f"healthy after {time.monotonic() - start:.0f} s", flush=True)
            for owned in (root.folder / said["VOLUME"].strip("/"), f"/proc/{app.pid}"):
                assert str(os.stat(owned).st_uid) == root.user, f"{owned} is not the user's"
            made = {path.name for path in (root.folder / said["VOLUME"].strip("/")).iterdir()}
            assert {"concepts", "pictures", "runs"} <= made, made
            print(f"the volume has {', '.join(sorted(made))}", flush=True)
        finally:
            app.terminate()


def main() -> int:
    """Build and check, in a mount namespace of this process."""
    parser = argparse.ArgumentParser(description="Run the Dockerfile's lines in a clean root.")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--bind", action="append", default=[], metavar="PATH")
    given = parser.parse_args()
    if (folder := os.environ.get("SVFIT_ROOT")) is None:
        with tempfile.TemporaryDirectory(prefix="svfit-root-") as folder:
            again = ["unshare", "--mount", sys.executable, *sys.argv]
            return subprocess.run(again, env=os.environ | {"SVFIT_ROOT": folder}).returncode
    lines = instructions((ROOT / "Dockerfile").read_text("utf-8"))
    Path(folder).chmod(0o755)
    root = CleanRoot(Path(folder), given.bind)
    build(root, lines, dict(each.split("=", 1) for each in given.build_arg))
    check(root, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
