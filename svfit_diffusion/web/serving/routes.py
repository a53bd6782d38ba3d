"""What is answered: pictures, the concepts there are, health and metrics.

POST /v1/pictures   {"prompt": "sks dog", "concepts": {"rex": 0.8}, "seed": 1}   -> a PNG
GET  /v1/concepts, /v1/concepts/NAME, /v1/queue, /health, /metrics
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import psutil
from PIL import Image, PngImagePlugin
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ...generation import Parameters, is_withheld
from ...pool import ConceptPool
from .batching import Batching, Job, QueueFull
from .metrics import TEXT
from .wishes import read_wish

GET_PATHS = re.compile(r"/(health|metrics|v1/(queue|concepts(/[^/]+)?))")
POST_PATHS = re.compile(r"/v1/pictures")
LOOK = 0.5  # seconds between looks at the queue, and at whether the client is still there
RETRY = {"Retry-After": "10"}


class Front:
    """The endpoints on one pool and its queue. base: the name of the base."""

    def __init__(self, pool: ConceptPool, queue: Batching, base: str) -> None:
        self.pool, self.queue, self.base = pool, queue, base

    def app(self, middleware: list) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/pictures", self.pictures, methods=["POST"]),
            Route("/v1/concepts", self.concepts),
            Route("/v1/concepts/{name}", self.concept),
            Route("/v1/queue", self.waiting),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
        ]
        return Starlette(routes=routes, middleware=middleware)

    async def pictures(self, request: Request) -> Response:
        """Queue a picture, wait for it, and return its PNG; or a line for each change meanwhile."""
        body = await request.body()
        try:
            wanted, stream = await run_in_threadpool(read_wish, body, self.pool, self.base)
            job = self.queue.submit(wanted)
        except ValueError as error:
            return self._refused(400, str(error))
        except QueueFull:
            sentence = f"{self.queue.room} pictures are waiting already; try again in a while."
            return self._refused(503, sentence, RETRY)
        if stream:
            lines = self._lines(job)
            return StreamingResponse(lines, media_type="application/x-ndjson")
        async for _ in self._positions(job, request):
            pass
        try:
            image = job.result.result(0)
        except Exception as error:
            return self._failed(error)
        headers = {"X-Seed": str(wanted.seed), "X-Withheld": str(is_withheld(image)).lower()}
        return Response(await run_in_threadpool(_png, image, wanted), 200, headers, "image/png")

    async def _positions(self, job: Job, request: Request | None = None) -> AsyncIterator[int]:
        """Its position in the queue, each time it changes, until it is done.

        request: whose client is waited for; a picture that nobody waits for is not generated.
        """
        known, done = None, asyncio.wrap_future(job.result)
        while not done.done():
            if (position := self.queue.position(job)) != known:
                yield (known := position)
            if request is not None and await request.is_disconnected():
                self.queue.cancel(job)
            await asyncio.wait([done], timeout=LOOK)
        if not done.cancelled():
            done.exception()  # as is said below; asyncio would log that nobody looked

    async def _lines(self, job: Job) -> AsyncIterator[bytes]:
        """A line of JSON for each change of the position, then one with the picture."""
        try:
            async for position in self._positions(job):
                yield _line({"position": position})
            image = job.result.result(0)
            png = await run_in_threadpool(_png, image, job.wanted)
            found = {"seed": job.wanted.seed, "withheld": is_withheld(image)}
            yield _line(found | {"png": base64.b64encode(png).decode()})
        except asyncio.CancelledError:
            self.queue.cancel(job)
            raise
        except Exception as error:
            yield _line({"detail": _sentence(error)})

    async def concepts(self, request: Request) -> Response:
        """The names of the concepts."""
        return JSONResponse(
            {"base": self.base, "concepts": await run_in_threadpool(list, self.pool)}
        )

    async def concept(self, request: Request) -> Response:
        """The words that call a concept, and what each stands for."""
        name = request.path_params["name"]
        try:
            calls = await run_in_threadpool(self.pool.triggers, name)
        except ValueError as error:
            return self._refused(404, str(error))
        words = [{"word": call.word, "class_word": call.class_word} for call in calls]
        return JSONResponse({"name": name, "words": words})

    async def waiting(self, request: Request) -> Response:
        """How many pictures wait, and may."""
        return JSONResponse({"waiting": len(self.queue), "room": self.queue.room})

    async def health(self, request: Request) -> Response:
        """Whether it serves: for load balancers, without a password."""
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Counts for Prometheus."""
        now = {
            "queue_waiting": len(self.queue),
            "queue_room": self.queue.room,
            "concepts_resident": self.pool.resident,
            "memory_bytes": psutil.Process().memory_info().rss,
        }
        return PlainTextResponse(self.queue.metrics.text(now), media_type=TEXT)

    def _refused(self, status: int, sentence: str, headers: dict | None = None) -> Response:
        self.queue.metrics.add("refused")
        return JSONResponse({"detail": sentence}, status, headers)

    def _failed(self, error: BaseException) -> Response:
        if isinstance(error, QueueFull):
            return self._refused(503, "the server is closing; ask another one.", RETRY)
        if isinstance(error, ValueError):
            return self._refused(400, str(error))
        return JSONResponse({"detail": _sentence(error)}, 500)


def _sentence(error: BaseException) -> str:
    """What is said of a failure; only of our own refusals more than that there was one."""
    return str(error) if isinstance(error, ValueError) else "The picture could not be generated."


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _png(image: Image.Image, wanted: Parameters) -> bytes:
    """A PNG that carries its parameters."""
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("parameters", wanted.to_infotext())
    image.save(file, format="PNG", pnginfo=info)
    return file.getvalue()
