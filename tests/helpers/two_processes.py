"""Two processes of one training, on this machine's CPU, each started by itself.

Nothing ends the one when the other fails, as a launcher on one machine would: what they do together
they must do by themselves.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

START = f"""
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from accelerate import PartialState
assert PartialState(cpu=True).num_processes == 2
"""


def two_processes(code: str, *arguments: str, timeout: int = 300):
    """Run code in both; returns (exit status, output, errors) of each.

    The code finds its arguments in sys.argv. A process that hangs is a failure of the test.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {
        "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": "2",
    }  # fmt: skip
    runs = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", START + code, *arguments],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        ended = [run.communicate(timeout=timeout) for run in runs]
    finally:
        for run in runs:
            run.kill()
    return [(run.returncode, *said) for run, said in zip(runs, ended, strict=True)]
