"""A local server with the Hub's HTTP interface, as far as it is used, and the way to it."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
from huggingface_hub import constants

COMMIT = "0" * 39 + "1"


class Hub(BaseHTTPRequestHandler):
    """Just enough of huggingface.co: create, preupload, commit, resolve."""

    files: dict[str, dict[str, bytes]] = {}

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self, **values):
        self.reply(200, json.dumps(values).encode(), Content_Type="application/json")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.reply(401, b"{}")
        elif self.path == "/api/repos/create":
            made = json.loads(body)
            repo = f"{made.get('organization') or 'me'}/{made['name']}"
            self.files.setdefault(repo, {})
            self.answer(url=f"http://{self.headers['Host']}/{repo}", name=repo, id=repo)
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer(
                files=[{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            )
        elif "/commit/" in self.path:
            repo = "/".join(self.path.split("/")[3:5])
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = base64.b64decode(entry["value"]["content"])
                    self.files[repo][entry["value"]["path"]] = value
            self.answer(
                commitUrl=f"http://{self.headers['Host']}/{repo}/commit/{COMMIT}", commitOid=COMMIT
            )
        else:
            self.answer()

    def do_GET(self):
        parts = self.path.strip("/").split("/")
        repo = "/".join(parts[:2])
        if repo not in self.files or "resolve" not in parts:
            self.reply(404, b"", X_Error_Code="RepoNotFound")
        elif (data := self.files[repo].get("/".join(parts[4:]))) is None:
            self.reply(404, b"", X_Error_Code="EntryNotFound")
        else:
            tag = f'"{hashlib.sha1(data).hexdigest()}"'
            size = {"X_Linked_Size": "99000000"} if repo == "me/large" else {}
            self.reply(200, data, ETag=tag, X_Repo_Commit=COMMIT, **size)

    do_HEAD = do_GET


@contextlib.contextmanager
def local_hub(monkeypatch, cache):
    """The stand-in's address, with huggingface_hub turned to it; it holds nothing at first."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.files = {}
    address = f"http://127.0.0.1:{server.server_port}"
    turn_to(monkeypatch, address, cache)
    yield address
    server.shutdown()
    server.server_close()


def turn_to(monkeypatch, address, cache):
    """Let huggingface_hub ask this address, and keep what it downloads in this folder."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for variant in (name, name.lower()):
            monkeypatch.delenv(variant, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
