"""Several `svfit serve` behind one address, on this machine: what a load balancer does with many.

    python recipes/serving/replicas.py --replicas 2 --port 7850 -- --base toybox --concepts FOLDER

Each connection goes to the replica with the fewest, and to another one where it does not answer.
On several machines take any load balancer instead (docs/serving.md): replicas keep nothing, and
share nothing but a copy of the folder.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import signal
import sys

STARTED = re.compile(r"Serving .+ at http://([\d.]+):(\d+);")


class Replica:
    """A process that serves, its address, and the connections that it has now."""

    def __init__(self, process: asyncio.subprocess.Process, host: str, port: int) -> None:
        self.process, self.host, self.port, self.connections = process, host, port, 0


async def start(arguments: list[str]) -> Replica:
    """Start a replica on a free port, and wait until it serves."""
    command = [sys.executable, "-m", "svfit_diffusion.cli", "serve", *arguments, "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    while line := (await process.stdout.readline()).decode():
        if found := STARTED.match(line):
            return Replica(process, found[1], int(found[2]))
    raise SystemExit(f"a replica ended with status {await process.wait()}.")


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Pass bytes on until there are no more."""
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()
    with contextlib.suppress(OSError, RuntimeError):
        target.write_eof()


async def connect(replicas: list[Replica]) -> tuple[Replica, asyncio.StreamReader, object]:
    """A connection to the replica with the fewest, of those that answer."""
    for replica in sorted(replicas, key=lambda one: one.connections):
        with contextlib.suppress(OSError):
            return replica, *await asyncio.open_connection(replica.host, replica.port)
    raise ConnectionError("no replica answers")


async def balance(
    replicas: list[Replica], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve one connection."""
    try:
        replica, answers, requests = await connect(replicas)
    except ConnectionError:
        writer.close()
        return
    replica.connections += 1
    try:
        ways = [asyncio.create_task(copy(reader, requests)),
                asyncio.create_task(copy(answers, writer))]  # fmt: skip
        await asyncio.wait([ways[1]])  # the replica has ended it, or is gone
        ways[0].cancel()
    finally:
        replica.connections -= 1
        for end in (requests, writer):
            end.close()


async def main() -> None:
    """Serve until SIGTERM or Ctrl-C; then all replicas end too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--port", type=int, default=7850, help="of the address (default: 7850)")
    parser.add_argument("arguments", nargs="*", help="of each `svfit serve`, after --")
    given = parser.parse_args()
    replicas = await asyncio.gather(*(start(given.arguments) for _ in range(given.replicas)))
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    server = await asyncio.start_server(
        lambda *ends: balance(replicas, *ends), "127.0.0.1", given.port
    )
    port = server.sockets[0].getsockname()[1]
    print(f"Serving at http://127.0.0.1:{port} with processes "
          f"{' '.join(str(one.process.pid) for one in replicas)}.", flush=True)  # fmt: skip
    await ended.wait()
    server.close()
    for replica in replicas:
        with contextlib.suppress(ProcessLookupError):
            replica.process.terminate()
        await replica.process.wait()


if __name__ == "__main__":
    asyncio.run(main())
