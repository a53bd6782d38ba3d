"""The app as `svfit app` serves it, under many clients: each is answered, and nothing leaks."""

import json
import os
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest

KEPT = 8  # seconds that the app keeps files here; a day would show nothing. A client on a busy
# machine must have fetched its picture by then
SERVE = f"""
import sys
from svfit_diffusion.cli.main import main
from svfit_diffusion.web.service import assembly as page
from svfit_diffusion.web.studio import temporary_files as files
files.KEEP_SECONDS, files.SWEEP_SECONDS, page.CACHE = {KEPT}, 1, (1, 2)
sys.exit(main(["app", "--base", sys.argv[1]]))
"""
BUSY = "The app is busy: 16 jobs are waiting. Try again in a minute."


@pytest.fixture
def app(base_folder, tmp_path):
    """The app in a process of its own: url, process, the folder of all its temporary files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | {
        **{"SVFIT_HOME": str(tmp_path / "home"), "TMPDIR": str(temporary)},
        **{"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
    }
    environment.pop("GRADIO_TEMP_DIR", None)
    command = [sys.executable, "-c", SERVE, str(base_folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert "Open http://127.0.0.1" in line
        yield line.split()[1], psutil.Process(process.pid), temporary
        process.terminate()


class Crowd:
    """Clients that generate, load the page and upload, each in a thread of its own."""

    def __init__(self, url):
        self.url, self.pictures, self.busy, self.wrong = url, 0, 0, []
        self.lock, self.end = threading.Lock(), 0.0

    def work(self, clients, seconds):
        """Run this many clients for some seconds, and wait for the last answers."""
        self.end = time.monotonic() + seconds
        threads = [threading.Thread(target=self._client, args=(i,)) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, number):
        with httpx.Client(base_url=self.url, timeout=600) as http:
            turn = 0
            while time.monotonic() < self.end:
                turn += 1
                try:
                    self._generate(http, number * 10_000 + turn)
                    if turn % 5 == 0:
                        self._browse(http)
                except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
                    with self.lock:
                        self.wrong.append(repr(error))

    def _generate(self, http, seed):
        data = ["a photo of a dog", "", {}, 1, seed, 1, None, None, None]
        answer = http.post("gradio_api/call/generate", json={"data": data})
        if answer.status_code == 503:
            assert answer.json()["detail"] == BUSY and answer.headers["retry-after"] == "60"
            with self.lock:
                self.busy += 1
            time.sleep(0.2)
            return
        event = answer.raise_for_status().json()["event_id"]
        text = http.get(f"gradio_api/call/generate/{event}").text
        assert "event: complete" in text, text[-300:]
        last = json.loads(text.strip().splitlines()[-1].removeprefix("data: "))
        address = last[0][0]["image"]["url"]
        assert http.get(httpx.URL(address).path).content.startswith(b"\x89PNG")
        with self.lock:
            self.pictures += 1

    def _browse(self, http):
        assert http.get("config").status_code == 200
        upload = {"files": ("a.png", os.urandom(20_000))}
        assert http.post("gradio_api/upload", files=upload).status_code == 200


def memory(process):
    """The bytes that only this process uses, once it is idle."""
    time.sleep(2)
    return min(process.memory_full_info().uss for _ in range(3))


def left(folder):
    """The temporary files that are there; folders may go while they are walked."""
    return [name for _, _, names in os.walk(folder) for name in names]


@pytest.mark.parametrize(
    ("clients", "seconds"),
    [(4, 5), pytest.param(20, 120, marks=pytest.mark.slow)],
)
def test_under_load_all_are_answered_and_nothing_piles_up(app, clients, seconds):
    url, process, temporary = app
    full = seconds > 60
    warm = Crowd(url)
    warm.work(clients, 60 if full else 2)  # caches and pools fill once
    time.sleep(KEPT + 3)
    files, before = left(temporary), memory(process)
    crowd = Crowd(url)
    crowd.work(clients, seconds)
    end = time.monotonic() + 300
    while (now := left(temporary)) and len(now) > len(files) and time.monotonic() < end:
        time.sleep(0.5)
    after = memory(process)
    print(
        f"{clients} clients, {seconds} s: {crowd.pictures} pictures, {crowd.busy} refused; "
        f"memory {before:,} -> {after:,} bytes ({after / before - 1:+.2%}), "
        f"{len(files)} -> {len(now)} temporary files"
    )
    assert not warm.wrong and not crowd.wrong, (warm.wrong + crowd.wrong)[:3]
    assert crowd.pictures >= clients
    assert len(now) <= len(files), "the temporary folder grows"
    assert after < before * (1.05 if full else 1.25)
    if full:
        assert crowd.busy, "20 clients fill a queue of 16"
    assert httpx.get(f"{url}config").status_code == 200
