"""web.service: HTTP requests of other pages and programs to the app as it is served."""

import math
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from svfit_diffusion.web.service import middleware, server
from svfit_diffusion.web.service.assembly import build_app
from svfit_diffusion.web.service.clients import (
    FREE_ATTEMPTS,
)
from svfit_diffusion.web.studio import temporary_files

LOGIN = ("ann", "right password")
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def locked(workspace, tmp_path_factory):
    """The same app with a password, and files that go after some seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("locked")))
        patch.setattr(temporary_files, "KEEP_SECONDS", 4.0)  # an upload must be seen before it goes
        patch.setattr(temporary_files, "SWEEP_SECONDS", 0.2)
        page = build_app(workspace)
        yield server.launch(page, "127.0.0.1", None, LOGIN)[1]
        page.close(verbose=False)


def send_raw(address, *lines, body=b""):
    """Send these bytes and return status and body; {host} stands for the app's own."""
    at = httpx.URL(address)
    text = "\r\n".join(lines).format(host=f"127.0.0.1:{at.port}").encode()
    with socket.create_connection((at.host, at.port), timeout=30) as wire:
        wire.sendall(text + b"\r\nConnection: close\r\n\r\n" + body)
        found = b""
        while more := wire.recv(65_536):
            found += more
    return int(found.split()[1]), found.partition(b"\r\n\r\n")[2]


def sentence(answer):
    """The sentence of a refusal."""
    said = answer.json()["detail"]
    assert said.endswith(".") and len(said) < 300 and "\n" not in said
    return said


OWN_HOSTS = [
    "127.0.0.1:{port}",
    "localhost:{port}",
    "LOCALHOST",
    "127.0.0.1",
    "127.0.0.9:1",
    "[::1]:{port}",
]
OTHER_HOSTS = [
    *("evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example"),
    *(
        "evil.example@127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "192.168.0.2",
        "[::2]",
        " ",
        ":80",
    ),
    *("127.0.0.1:{port}:80", "127.0.0.1/evil", "localhost\\evil", "[localhost]"),
]


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_without_a_password_it_answers_to_its_own_names(url, host):
    host = host.format(port=httpx.URL(url).port)
    assert send_raw(url, "GET /config HTTP/1.1", f"Host: {host}")[0] == 200


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_a_name_that_leads_here_is_not_answered(url, host):
    host = host.format(port=httpx.URL(url).port)
    for line in ("GET /config HTTP/1.1", "POST /gradio_api/call/library HTTP/1.1"):
        status, body = send_raw(url, line, f"Host: {host}", "Content-Length: 0")
        assert status in (400, 421) and b"components" not in body and b"event_id" not in body


def test_no_name_or_two_names_are_no_name(url):
    assert send_raw(url, "GET /config HTTP/1.0")[0] in (400, 421)
    two = ("Host: {host}", "Host: evil.example")
    assert send_raw(url, "GET /config HTTP/1.1", *two)[0] in (400, 421)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://localhost"},
        {"Origin": "http://evil.example/{own}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_another_page_gets_nothing_done(url, workspace, headers):
    own = httpx.URL(url).netloc.decode()
    headers = {key: value.format(own=own) for key, value in headers.items()}
    before = workspace.library.names()
    calls = [
        httpx.post(f"{url}gradio_api/call/delete", json={"data": ["rex"]}, headers=headers),
        httpx.post(f"{url}gradio_api/call/delete", content=b'{"data":["rex"]}',
                   headers=headers | {"Content-Type": "text/plain"}),
        httpx.post(f"{url}gradio_api/queue/join", json={}, headers=headers),
        httpx.post(f"{url}gradio_api/upload", files={"files": ("a.png", PNG)}, headers=headers),
        httpx.get(f"{url}config", headers=headers),
    ]  # fmt: skip
    for answer in calls:
        assert answer.status_code == 403 and "Another page" in sentence(answer)
    time.sleep(0.3)
    assert workspace.library.names() == before


def test_a_link_to_the_app_and_its_own_page_come_through(url):
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert httpx.get(url, headers=link).status_code == 200
    assert httpx.post(f"{url}gradio_api/call/library", headers=link).status_code == 403
    own = {"Origin": url.rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    answer = httpx.post(f"{url}gradio_api/call/library", json={"data": []}, headers=own)
    assert answer.status_code == 200 and answer.json()["event_id"]
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "line",
    [
        "GET /gradio_api/proxy=https://example.org/x",
        "GET /gradio_api/file=https://example.org/x",
        "GET /gradio_api/file=file:///etc/hostname",
        "GET /gradio_api/token",
        "GET /monitoring",
        "GET /monitoring/summary",
        "GET /gradio_api/deep_link",
        "GET /gradio_api/vibe-code/",
        "GET /docs",
        "POST /gradio_api/vibe-edit/",
        "POST /gradio_api/process_recording",
        "POST /gradio_api/component_server",
        "POST /gradio_api/stream/x",
        "POST /gradio_api/api/library",
        "PUT /config",
        "DELETE /gradio_api/upload",
        "TRACE /",
    ],
)
def test_what_the_page_does_not_need_is_closed(url, line):
    assert send_raw(url, f"{line} HTTP/1.1", "Host: {host}", "Content-Length: 0")[0] == 404


def test_a_websocket_is_closed(url):
    upgrade = (
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: " + "A" * 22 + "==",
    )
    at = httpx.URL(url)
    lines = ("GET / HTTP/1.1", f"Host: 127.0.0.1:{at.port}", "Connection: Upgrade", *upgrade)
    with socket.create_connection((at.host, at.port), timeout=30) as wire:
        wire.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        assert wire.recv(65_536).split()[1] != b"101"


@pytest.mark.parametrize("start", ["/gradio_api/file=", "/static/", "/assets/", "/svelte/"])
def test_no_file_outside_can_be_read(url, tmp_path, start):
    secret = tmp_path / "secret.txt"
    secret.write_text("a private file")
    inside = os.environ["GRADIO_TEMP_DIR"]
    up = "/".join([".."] * 12)
    for path in (
        *(
            f"{secret}",
            f"/{secret}",
            f"{up}{secret}",
            f"{inside}/{up}{secret}",
            f"{inside}/../secret",
        ),
        *(f"{inside}/%2e%2e/{up}{secret}", f"{up}{secret}".replace("..", "%2e%2e")),
        *(
            f"{up}{secret}".replace("/", "%2f"),
            f"{up}{secret}".replace("/", "%5c"),
            f"{secret}%00.png",
        ),
        *(f"..%252f..%252f{secret}", "~/.bashrc", "pyproject.toml", ".", "", "/", inside),
    ):
        status, body = send_raw(url, f"GET {start}{path} HTTP/1.1", "Host: {host}")
        assert status in (400, 403, 404, 500, 307) and b"a private file" not in body, path
        assert b"[project]" not in body


def test_a_link_in_the_apps_folder_leads_nowhere(url, tmp_path):
    (tmp_path / "secret.txt").write_text("a private file")
    link = Path(os.environ["GRADIO_TEMP_DIR"], "link.txt")
    link.symlink_to(tmp_path / "secret.txt")
    try:
        answer = httpx.get(f"{url}gradio_api/file={link}")
        assert answer.status_code == 403 and b"a private file" not in answer.content
    finally:
        link.unlink()


def test_a_file_is_never_fetched_from_an_address(url):
    for path in (
        "http://127.0.0.1:1/x.safetensors",
        "https://example.org/x",
        "file:///etc/hostname",
    ):
        data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
        answer = httpx.post(f"{url}gradio_api/call/inspect", json=data)
        assert answer.status_code == 400 and "not fetched" in sentence(answer)
    deep = b'{"data":' + b"[" * 100_000
    assert httpx.post(f"{url}gradio_api/call/inspect", content=deep).status_code == 400


def chunks(count, size):
    for _ in range(count):
        yield b"x" * size


def test_bodies_are_bounded_whether_they_say_their_size_or_not(url, monkeypatch):
    call = f"{url}gradio_api/call/library"
    for body in (b" " * 1_000_001, chunks(101, 10_000)):
        answer = httpx.post(call, content=body)
        assert answer.status_code == 413 and "1,000,000 bytes" in sentence(answer)
    claimed = ("Host: {host}", "Content-Type: multipart/form-data; boundary=x")
    size = f"Content-Length: {middleware.MAX_REQUEST + 1}"
    assert send_raw(url, "POST /gradio_api/upload HTTP/1.1", *claimed, size)[0] == 413
    monkeypatch.setattr(middleware, "MAX_REQUEST", 200_000)
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="%d.png"\r\n\r\n%s\r\n'
        % (i, b"x" * 50_000)
        for i in range(8)
    )
    parts = (body[i : i + 10_000] for i in range(0, len(body), 10_000))
    answer = httpx.post(f"{url}gradio_api/upload", content=parts, headers=FORM)
    assert answer.status_code == 413 and "200,000 bytes" in sentence(answer)


def files_in_folder():
    """The files in the app's folder."""
    return {p for p in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "disposition",
    [
        *('filename="a.html"', 'filename="a.svg"', 'filename="a.png.exe"', 'filename=".png/.."'),
        *(
            'filename="png"',
            'filename=""',
            "",
            "filename*=utf-8''a.html",
            'filename="a.png\\".htm"',
        ),
        *('filename="a.pickle"', 'filename="a.ckpt"', 'filename="../../.bashrc"'),
    ],
)
def test_other_kinds_of_files_are_not_taken(url, disposition):
    before = files_in_folder()
    form = f'form-data; name="files"; {disposition}'.rstrip("; ")
    body = f"--x\r\nContent-Disposition: {form}\r\n\r\nhello\r\n--x--\r\n".encode()
    answer = httpx.post(f"{url}gradio_api/upload", content=body, headers=FORM)
    assert answer.status_code == 415 and ".safetensors" in sentence(answer)
    assert files_in_folder() == before


def test_uploads_that_are_no_forms_are_refused(url):
    for kind, body in (
        ("text/plain", b"x"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"no part at all"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A" * 9_000 + b": b\r\n\r\n"),
    ):
        headers = {"Content-Type": kind}
        answer = httpx.post(f"{url}gradio_api/upload", content=body, headers=headers)
        assert answer.status_code in (400, 415) and sentence(answer), (kind, body[:20])


def test_photos_and_concepts_are_taken(url):
    captions = ("a.txt", "metadata.jsonl", "metadata.csv")
    for name in ("a.png", "A.JPG", "Köter.webp", "x.safetensors", *captions):
        answer = httpx.post(f"{url}gradio_api/upload", files={"files": (name, PNG)})
        assert answer.status_code == 200 and Path(answer.json()[0]).read_bytes() == PNG
        Path(answer.json()[0]).unlink()


def test_a_full_queue_says_so(url):
    data = {"data": ["a photo of a dog", "", {}, 2, 0, 4, None, None, None]}
    calls = [httpx.post(f"{url}gradio_api/call/generate", json=data) for _ in range(24)]
    full = [answer for answer in calls if answer.status_code == 503]
    assert full and {answer.status_code for answer in calls} == {200, 503}
    assert sentence(full[0]) == "The app is busy: 16 jobs are waiting. Try again in a minute."
    assert full[0].headers["retry-after"] == "60"
    last = next(answer for answer in reversed(calls) if answer.status_code == 200)
    event = f"{url}gradio_api/call/generate/{last.json()['event_id']}"
    assert "event: complete" in httpx.get(event, timeout=600).text, "those that wait are served"


def log_in(address, password, **more):
    form = {"username": LOGIN[0], "password": password}
    return httpx.post(f"{address}login", data=form, **more)


def test_with_a_password_nothing_is_given_away_and_tries_are_slowed(locked):
    for path in ("config", "gradio_api/info", "gradio_api/file=/etc/hostname"):
        assert httpx.get(f"{locked}{path}").status_code == 401
    upload = {"files": ("a.png", PNG)}
    assert httpx.post(f"{locked}gradio_api/upload", files=upload).status_code == 401
    assert log_in(locked, LOGIN[1]).status_code == 200, "a right password makes all well"
    spoofed = [{"X-Forwarded-For": f"10.0.0.{i}"} for i in range(20)]
    began = time.monotonic()
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda h: log_in(locked, "guess", headers=h), spoofed))
    counts = [answer.status_code for answer in answers]
    later = math.log2(1 + time.monotonic() - began)  # waits of 1, 2, 4 s passed on a busy machine
    assert set(counts) == {400, 429} and counts.count(400) <= FREE_ATTEMPTS + int(later)
    late = next(answer for answer in answers if answer.status_code == 429)
    assert int(late.headers["retry-after"]) >= 1 and "wrong passwords" in sentence(late)
    waited = 0.0
    while (answer := log_in(locked, LOGIN[1])).status_code == 429:
        assert waited < 60
        waited += int(answer.headers["retry-after"])
        time.sleep(int(answer.headers["retry-after"]))
    assert answer.status_code == 200
    assert httpx.get(f"{locked}config", cookies=answer.cookies).status_code == 200


def test_with_a_password_it_answers_to_other_names_but_to_no_other_page(locked):
    named = {"Host": "box.example"}
    assert httpx.get(f"{locked}login_check", headers=named).status_code in (401, 404)
    assert httpx.get(locked, headers=named).status_code == 200
    foreign = named | {"Origin": "http://evil.example"}
    assert log_in(locked, LOGIN[1], headers=foreign).status_code == 403


def test_uploads_vanish_after_their_time(locked):
    cookies = log_in(locked, LOGIN[1]).cookies
    upload = {"files": ("a.png", PNG)}
    path = Path(httpx.post(f"{locked}gradio_api/upload", files=upload, cookies=cookies).json()[0])
    assert path.is_file()
    end = time.monotonic() + 300
    while path.is_file() or path.parent.is_dir():
        assert time.monotonic() < end
        time.sleep(0.2)
