"""Solver processes that misbehave, as commands for `Supervised`; all say first that they are ready."""

from __future__ import annotations

import sys
from collections.abc import Callable

READY = """
import os, pickle, signal, struct, sys, threading, time
def say(body, length=None):
    sys.stdout.buffer.write(struct.pack("<Q", len(body) if length is None else length) + body)
    sys.stdout.buffer.flush()
def asked():
    (length,) = struct.unpack("<Q", sys.stdin.buffer.read(8))
    return pickle.loads(sys.stdin.buffer.read(length))
say(pickle.dumps("ready"))
"""

IGNORING = {
    "spins": "asked()\nwhile True: pass",
    "spins and ignores SIGTERM": "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nasked()\nwhile True: pass",
    "deadlocks": "asked()\nlock = threading.Lock(); lock.acquire(); lock.acquire()",
    "drips its answer": "asked(); say(b'', 10**6)\nwhile True: os.write(1, b'\\0'); time.sleep(0.02)",
    "reads nothing": "signal.pause()",
}
DYING = {
    "segmentation fault": "asked()\nos.kill(os.getpid(), signal.SIGSEGV)",
    "killed for its memory (137)": "asked()\nos.kill(os.getpid(), signal.SIGKILL)",
    "exit 1": "asked()\nsys.exit(1)",
    "half an answer": "asked()\nsay(b'half', 100)\nsys.exit(0)",
    "no pickle": "asked()\nsay(b'Academic license - for non-commercial use only')",
    "a length of rubbish": "asked()\nsys.stdout.buffer.write(b'Set parameter Threads to value 1'); "
    "sys.stdout.buffer.flush()\nsignal.pause()",
    "another type": "asked()\nsay(pickle.dumps({'x': [1.0]}))",
    "a class that is not there": "asked()\nsay(b'cnowhere\\nNothing\\n.')",
}


def command(body: str) -> Callable[[str], list[str]]:
    """A command that does that once it is ready."""
    return lambda _name: [sys.executable, "-c", READY + body]
