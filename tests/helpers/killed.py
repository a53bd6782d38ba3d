"""Real trainings that are killed: a process that forks one for each line it reads.

    {"config": {...}, "save": 2, "event": 17}   killed before that event of that checkpoint's write
    {"config": {...}, "delay": 0.2}             killed that many seconds after its first step
    {"config": {...}, "early": 0.2}             ... after it was started
    {"config": {...}}                           not killed

It answers each with a line: how the training ended (negative: by that signal), how many steps it
did, and the names of the events of each checkpoint's write. Nothing of the package is replaced; an
event is what Python's own audit hooks tell (open, rename, remove, ...), an fsync or half a write.
"""

import json
import os
import select
import signal
import sys
import time
from pathlib import Path

import torch

import svfit_diffusion.training.loop as training
from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training.checkpoints import Checkpoints

WATCHED = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree")


class Saves:
    """Counts what happens while a checkpoint is written, and kills the process where told."""

    def __init__(self, save=None, event=None):
        self.at, self.writing, self.seen = (save, event), False, []
        self.write_bytes, self.fsync, self.save = Path.write_bytes, os.fsync, Checkpoints.save
        Path.write_bytes = lambda path, data: self._half(path, data)
        os.fsync = lambda handle: (self._note("fsync"), self.fsync(handle))
        Checkpoints.save = lambda *given: self._save(*given)
        sys.addaudithook(lambda name, _: name in WATCHED and self._note(name))

    def _save(self, *given):
        self.writing, path = True, self.seen.append([])
        try:
            path = self.save(*given)
        finally:
            self.writing = False
        return path

    def _half(self, path, data):
        if self._note("half", kill=False):
            with open(path, "r+b", buffering=0) as file:
                file.write(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return self.write_bytes(path, data)

    def _note(self, name, kill=True):
        if not self.writing:
            return False
        self.seen[-1].append(name)
        due = (len(self.seen), len(self.seen[-1])) == self.at
        if due and kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return due


def child(order, out):
    """Train, and tell every step."""
    saves = Saves(order.get("save"), order.get("event"))
    report = lambda trained, loss: os.write(out, b"s")  # noqa: E731
    training.train(TrainConfig(**order["config"]), progress=False, report=report)
    os.write(out, json.dumps(saves.seen).encode())


def serve(order):
    """Fork a training, kill it if told to, and say how it ended."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            child(order, write)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    os.close(write)
    if "early" in order:
        time.sleep(order["early"])
        os.kill(pid, signal.SIGKILL)
    elif "delay" in order:
        select.select([read], [], [])
        time.sleep(order["delay"])
        os.kill(pid, signal.SIGKILL)
    told = b""
    while data := os.read(read, 65536):
        told += data
    os.close(read)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    steps = len(told) - len(told.lstrip(b"s"))
    return {"status": status, "steps": steps, "saves": json.loads(told[steps:] or b"[]")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
