"""One process for each engine, asked one problem at a time."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from experiments.bench.cell import Cell

# A solve may pass its deadline by so much before its process is ended; making the problem takes time too.
GRACE_S = 30.0


class Engine:
    """A process that solves with one engine; started when first asked, and again after it ended."""

    def __init__(self, name: str, command: Sequence[str] = ()) -> None:
        self.name = name
        self._command = [*(command or (sys.executable, "-m", "experiments.bench.worker")), name]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process where it does not run; it gets ready by itself."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )

    def solve(self, cell: Cell, seed: int, deadline_s: float, *, without_sla: bool = False) -> dict[str, Any]:
        """The worker's answer; a process that ended or hangs is a failure of kind `error`."""
        self.start()
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        request = {"cell": cell.to_json(), "seed": seed, "deadline_s": deadline_s, "without_sla": without_sla}
        line, ended = "", f"no answer {GRACE_S:g} s after the deadline"
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            if select.select([process.stdout], [], [], deadline_s + GRACE_S)[0]:
                line = process.stdout.readline()
                ended = "the process ended"
        except BrokenPipeError:
            ended = "the process ended"
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.stop()
        return {"ms": None, "failure": "error", "message": ended, "proved": False, "objective": None}

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
