"""web.serving: `svfit serve` as programs call it: pictures, queue, refusals, counts, the gate."""

import base64
import io
import json
import re
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import uvicorn
from helpers.tiny_pipelines import load
from PIL import Image

from svfit_diffusion.generation import Parameters, generate, generate_batch
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.pool import ConceptPool
from svfit_diffusion.web.service.clients import FREE_ATTEMPTS
from svfit_diffusion.web.serving import routes
from svfit_diffusion.web.serving.batching import Batching, QueueFull
from svfit_diffusion.web.serving.metrics import Metrics
from svfit_diffusion.web.serving.routes import Front
from svfit_diffusion.web.serving.server import gate, uvicorn_config

WISH = {"prompt": "a photo of sks dog", "steps": 2, "width": 32, "height": 32}
LINE = re.compile(r"(# (HELP|TYPE) svfit_\w+ .+|svfit_\w+ [0-9.e+-]+)")


class Held:
    """A generator that waits for `go` before each batch, and remembers the batches."""

    def __init__(self, pool):
        self.pool, self.go, self.batches = pool, threading.Semaphore(0), []
        self.calls = 0

    def __call__(self, wanted):
        self.calls += 1
        self.go.acquire()
        self.batches.append(wanted)
        return generate_batch(self.pool, wanted)


class Served:
    """A front in this process, at `url`."""

    def __init__(self, pool, generate, room=4, most=8, login=None):
        self.queue = Batching(generate, room, most, Metrics())
        app = Front(pool, self.queue, "tiny").app(gate(login))
        config = uvicorn_config(app)
        config.port = 0
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def close(self):
        self.server.should_exit = True
        self.thread.join()
        self.queue.close()


@pytest.fixture(scope="module")
def pool(base_folder, files, tmp_path_factory):
    """A pool on the tiny base, over the folder of all files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVFIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield ConceptPool(load(base_folder), files["rex"].parent)


@pytest.fixture
def held(pool):
    """A front whose batches wait for us."""
    served = Served(pool, Held(pool))
    yield served
    served.queue._generate.go.release(100)
    served.close()


@pytest.fixture(scope="module")
def front(pool):
    """A front that answers at once."""
    served = Served(pool, lambda wanted: generate_batch(pool, wanted))
    yield served
    served.close()


def ask(served, auth=None, **fields):
    """A request for a picture."""
    return httpx.post(f"{served.url}/v1/pictures", json=WISH | fields, timeout=120, auth=auth)


def counts(served):
    """Name -> value of /metrics."""
    text = httpx.get(f"{served.url}/metrics").text
    assert text.endswith("\n") and all(LINE.fullmatch(line) for line in text.splitlines())
    return {name: float(v) for name, v in re.findall(r"^(\w+) (.+)$", text, re.MULTILINE)}


def until(condition):
    """Wait for something."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_requests_for_different_concepts_are_one_batch(held, files, base_folder):
    wishes = [
        {"concepts": {"rex": 0.8}, "seed": 1},
        {"concepts": {"max": 1}, "seed": 2, "prompt": "zwx dog"},
        {"seed": 3},
        {"concepts": {"rex": 0.2}, "seed": 4, "steps": 1},  # another kind
    ]
    with ThreadPoolExecutor(5) as threads:
        first = threads.submit(ask, held, seed=9)
        until(lambda: held.queue._generate.calls == 1)
        answers = [threads.submit(ask, held, **wish) for wish in wishes]
        until(lambda: len(held.queue) == 4)
        held.queue._generate.go.release(3)
        answers = [answer.result() for answer in answers]
    assert first.result().status_code == 200
    batches = held.queue._generate.batches
    assert sorted(len(batch) for batch in batches) == [1, 1, 3]
    for wish, answer in zip(wishes, answers, strict=True):
        assert answer.headers["content-type"] == "image/png"
        image = Image.open(io.BytesIO(answer.content))
        said = Parameters.from_infotext(image.text["parameters"])
        assert dict(said.concepts) == wish.get("concepts", {}) and said.seed == wish["seed"]
        pipe = load(base_folder)
        for name, strength in wish.get("concepts", {}).items():
            load_concept(pipe, files[name], strength)
        given = {k: v for k, v in (WISH | wish).items() if k != "concepts"}
        (alone, _), *_ = generate(pipe, **given)
        difference = np.abs(np.asarray(image, int) - np.asarray(alone, int))
        assert difference.max() <= 1  # of 255, by rounding
    assert counts(held)["svfit_pictures_total"] == 5 and counts(held)["svfit_batches_total"] == 3


def test_a_full_queue_refuses_and_positions_count_down(held):
    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(ask, held)
        until(lambda: held.queue._generate.calls == 1)
        waiting = [threads.submit(ask, held, steps=1, seed=i) for i in range(3)]
        until(lambda: len(held.queue) == 3)
        url, wish = f"{held.url}/v1/pictures", WISH | {"stream": True}
        with httpx.stream("POST", url, json=wish, timeout=120) as answer:
            lines = answer.iter_lines()
            assert json.loads(next(lines)) == {"position": 4}
            full = ask(held, seed=7)
            assert full.status_code == 503 and full.headers["retry-after"] == "10"
            assert full.json()["detail"].startswith("4 pictures are waiting already")
            held.queue._generate.go.release(2)
            until_now = next(line for line in lines if json.loads(line).get("position") == 0)
            held.queue._generate.go.release(1)
            found = [json.loads(line) for line in (until_now, *lines)]
        assert [r.result().status_code for r in waiting] == [200] * 3
        png = base64.b64decode(found[-1]["png"])
        assert Image.open(io.BytesIO(png)).size == (32, 32) and found[-1]["seed"] == 0
        assert first.result().status_code == 200
    assert counts(held)["svfit_refused_total"] == 1


def test_a_client_that_left_is_not_waited_for(held, monkeypatch):
    monkeypatch.setattr(routes, "LOOK", 0.05)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(ask, held)
        until(lambda: held.queue._generate.calls == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{held.url}/v1/pictures", json=WISH | {"seed": 1}, timeout=0.5)
        until(lambda: len(held.queue) == 0)
        held.queue._generate.go.release(2)
        assert first.result().status_code == 200
    assert [wanted.seed for batch in held.queue._generate.batches for wanted in batch] == [0]


def test_one_that_fails_does_not_take_others_with_it(held):
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(ask, held)
        until(lambda: held.queue._generate.calls == 1)
        good = threads.submit(ask, held, concepts={"rex": 1})
        bad = threads.submit(ask, held, concepts={"other": 1})
        until(lambda: len(held.queue) == 2)
        held.queue._generate.go.release(4)
        assert first.result().status_code == good.result().status_code == 200
        assert bad.result().status_code == 400
        assert "was trained on" in bad.result().json()["detail"]


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"prompt": " "}, "prompt is missing"),
        ({"prompt": 3}, "prompt must be a text"),
        ({"prompt": "a" * 2_000}, "at most 1,000 characters"),
        ({"negative": "x"}, "'negative' is no field; there are prompt"),
        ({"base": "sdxl"}, "this server generates with 'tiny', not with 'sdxl'"),
        ({"steps": 0}, "steps must be a whole number from 1 to 100"),
        ({"steps": True}, "steps must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"width": 33}, "width is 33, but must be a multiple of"),
        ({"width": 1 << 20}, "width must be a whole number from 8 to"),
        ({"guidance": "5"}, "guidance must be a number from 0 to 20"),
        ({"concepts": ["rex"]}, "concepts must be at most 4 names with strengths"),
        ({"concepts": {"rex": 99}}, "must be a number from -1.5 to 1.5"),
        ({"concepts": {"nobody": 1}}, "there is no concept 'nobody' in the pool"),
        ({"concepts": {"../rex": 1}}, "there is no concept"),
        ({"concepts": {"bad": 1}}, "is not a usable concept file"),
        ({"stream": 1}, "stream must be true or false"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(front, fields, sentence):
    answer = ask(front, **fields)
    assert answer.status_code == 400 and sentence in answer.json()["detail"]
    assert "Traceback" not in answer.text and len(answer.json()["detail"]) < 400


def test_what_is_no_json_is_refused(front):
    for body in (b"", b"{", b"[]", b"3", b"[" * 100_000):
        answer = httpx.post(f"{front.url}/v1/pictures", content=body)
        assert answer.status_code == 400, body[:9]
    large = httpx.post(f"{front.url}/v1/pictures", content=b" " * 2_000_000)
    assert large.status_code == 413


def test_what_there_is(front):
    found = httpx.get(f"{front.url}/v1/concepts").json()
    assert found["base"] == "tiny" and {"rex", "max"} <= set(found["concepts"])
    words = httpx.get(f"{front.url}/v1/concepts/rex").json()["words"]
    assert words == [{"word": "sks", "class_word": "dog"}]
    assert httpx.get(f"{front.url}/v1/concepts/nobody").status_code == 404
    assert httpx.get(f"{front.url}/v1/queue").json() == {"waiting": 0, "room": 4}
    assert httpx.get(f"{front.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{front.url}/docs").status_code == 404
    assert counts(front)["svfit_memory_bytes"] > 1e6


def test_the_gate_is_the_apps(front):
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        answer = httpx.get(f"{front.url}/health", headers=headers)
        assert answer.status_code in (403, 421), headers
    answer = httpx.post(f"{front.url}/v1/pictures", json=WISH, headers={"Origin": "http://x.y"})
    assert answer.status_code == 403


def test_a_password_is_asked_for(pool):
    served = Served(pool, lambda wanted: generate_batch(pool, wanted), login=("ann", "secret"))
    try:
        assert httpx.get(f"{served.url}/health").status_code == 200
        assert httpx.get(f"{served.url}/metrics").status_code == 401
        assert ask(served).headers["www-authenticate"].startswith("Basic")
        for _ in range(8):
            assert ask(served, auth=("ann", "secret"), steps=1).status_code == 200
        wrong = [ask(served, auth=("ann", "wrong")).status_code for _ in range(6)]
        assert wrong == [401] * 5 + [429]
        assert ask(served, auth=("ann", "secret")).status_code == 429  # until the wait is over
    finally:
        served.close()


@pytest.mark.parametrize(("proxies", "status"), [("127.0.0.1", 200), ("", 429)])
def test_behind_a_proxy_clients_are_told_apart_if_it_is_named(pool, monkeypatch, proxies, status):
    """Else anybody could call himself somebody else, and try passwords without waits."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", proxies)
    served = Served(pool, lambda wanted: generate_batch(pool, wanted), login=("ann", "secret"))

    def status_for(client, password):
        headers, login = {"X-Forwarded-For": client}, ("ann", password)
        return httpx.get(f"{served.url}/v1/concepts", headers=headers, auth=login).status_code

    try:
        guesses = [status_for("10.0.0.1", "guess") for _ in range(FREE_ATTEMPTS + 1)]
        assert guesses == [*[401] * FREE_ATTEMPTS, 429]
        assert status_for("10.0.0.2", "secret") == status
    finally:
        served.close()


def test_a_closing_queue_lets_nobody_wait(pool):
    generate = Held(pool)
    queue = Batching(generate, 4, 1, Metrics())
    jobs = [queue.submit(Parameters(prompt="a", steps=1, width=32, height=32)) for _ in range(3)]
    until(lambda: len(queue) == 2)
    closing = threading.Thread(target=queue.close)
    closing.start()
    until(lambda: jobs[2].result.done())
    generate.go.release()
    closing.join()
    assert jobs[0].result.result(60).size == (32, 32)
    for job in jobs[1:]:
        with pytest.raises(QueueFull):
            job.result.result(60)
    with pytest.raises(QueueFull):
        queue.submit(jobs[0].wanted)


def test_a_batch_that_failed_holds_nothing_while_its_pictures_are_made_alone():
    """Its tensors may be all that the device has room for."""
    held, alive = [], []

    class Tensors:
        pass

    def generate(wanted):
        if len(wanted) > 1:
            tensors = Tensors()
            held.append(weakref.ref(tensors))
            raise MemoryError
        alive.append(held[0]() is not None)
        return wanted

    queue = Batching.__new__(Batching)
    queue._generate, queue.metrics = generate, Metrics()
    jobs = [SimpleNamespace(wanted=i, result=Future()) for i in range(2)]
    queue._draw(jobs)
    assert [job.result.result() for job in jobs] == [0, 1] and alive == [False, False]
