"""O4: a log that nobody reads holds up no tick."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.fakes.world import PIPELINE
from tests.faults.blocked import LINES_A_TICK
from tests.faults.table import Case

# A pipe holds a page at least.
PIPE_BYTES = 4096
BLOCKED_TICKS = 100


def test_o4_a_log_that_nobody_reads(case: Case, root: Path) -> None:
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.blocked", str(BLOCKED_TICKS)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writes,
        text=True,
    )
    os.close(writes)
    assert run.stdout is not None and run.stdin is not None
    # The pipe is full all this while; without the queue not even the hundredth line would be written.
    figures = json.loads(run.stdout.readline())
    case.equal("ticks", figures["ticks"], BLOCKED_TICKS)
    case.note("tick p99 ms", 1000 * figures["p99_s"])
    case.at_least("lines dropped and counted", figures["dropped"], 1)
    with os.fdopen(reads, "rb") as pipe:
        run.stdin.write("end\n")
        run.stdin.flush()
        lines = [json.loads(line) for line in pipe]
    case.equal("exit code", run.wait(300), 0)
    run.stdin.close()
    run.stdout.close()
    logged = LINES_A_TICK * BLOCKED_TICKS
    case.at_least("lines accounted for", len(lines) + figures["dropped"], logged)
    case.equal("last line after reading resumes", lines[-1]["message"], "the end")
    assert lines[0]["message"].startswith(PIPELINE.name)


def test_o4_it_ends_though_nobody_ever_reads(case: Case, root: Path) -> None:
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.blocked", "5"],
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=writes,
    )
    os.close(writes)
    case.equal("exit code", run.wait(60), 0)
    os.close(reads)
