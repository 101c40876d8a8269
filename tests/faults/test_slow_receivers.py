"""O2, O4: a receiver that does not take events, and a log that nobody reads, hold up no tick."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from ipa.adapters.webhook import webhook as module
from ipa.adapters.webhook.guarded import Sender
from ipa.adapters.webhook.webhook import Receiver as Told
from ipa.adapters.webhook.webhook import Webhook
from ipa.control.audit.feed import RecordFeed
from tests.fakes.receiver import KEY, TAKEN, Receiver, answer, endless_headers
from tests.fakes.waiting import until
from tests.fakes.world import PIPELINE
from tests.faults.blocked import LINES_A_TICK
from tests.faults.table import Case
from tests.faults.test_store_faults import kept

MOST_WAITING = 10
TICKS = 40
# A pipe holds a page at least.
PIPE_BYTES = 4096
BLOCKED_TICKS = 100

TROUBLES: dict[str, Callable[[Receiver], object]] = {
    "it is silent": lambda receiver: receiver.silence,
    "it fails": lambda _: answer(500),
    "it never ends its headers": lambda _: endless_headers,
}


def port_of_nobody() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("trouble", [*TROUBLES, "nobody listens"])
def test_o2_a_receiver_that_takes_nothing(
    case: Case, tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.title += f": {trouble}"
    monkeypatch.setattr(module, "BACKOFF", module.Backoff(first_s=0.01, longest_s=0.02))
    with ExitStack() as stack:
        found = stack.enter_context(kept(tmp_path / "s.sqlite3"))
        receiver = stack.enter_context(Receiver())
        if trouble in TROUBLES:
            receiver.then = TROUBLES[trouble](receiver)  # type: ignore[assignment]
        port = receiver.port if trouble in TROUBLES else port_of_nobody()
        store = found.world.store
        sender = Sender(f"http://127.0.0.1:{port}/hook", timeout_s=0.2, private=True)
        webhook = Webhook(
            RecordFeed(store, time.monotonic, poll_s=0.01),  # type: ignore[arg-type]
            store,  # type: ignore[arg-type]
            sender,
            Told("/ipa/test", KEY, only_changes=False, most_waiting=MOST_WAITING),
        )
        webhook.start()
        stack.callback(webhook.close)
        until(lambda: store.cursor(module.CURSOR) is not None)  # type: ignore[attr-defined]
        calls: list[str] = []
        monkeypatch.setattr(
            sender, "post", _seen(sender.post, lambda: calls.append(threading.current_thread().name))
        )
        before = store.newest_seq()  # type: ignore[attr-defined]
        took_s = [_timed(lambda: found.world.ticks(1)) for _ in range(TICKS)]
        events = store.newest_seq() - before  # type: ignore[attr-defined]
        until(lambda: webhook.dropped == events - MOST_WAITING)
        case.equal("posts by the loop thread", calls.count(threading.current_thread().name), 0)
        case.equal("ticks skipped", found.world.loop.snapshot().skipped_ticks, 0)
        case.told("tick p99 ms", 1000 * sorted(took_s)[int(0.99 * TICKS)])
        case.equal("waiting", webhook.waiting, MOST_WAITING)
        case.equal("events lost without a count", events - webhook.dropped - webhook.waiting, 0)
        if trouble in TROUBLES:
            receiver.then = TAKEN
            receiver.posts.clear()
            receiver.released.set()
            until(lambda: webhook.waiting == 0)
            told = [post.event["data"]["entry"]["seq"] for post in receiver.posts]
            newest = [*range(before + events - MOST_WAITING + 1, before + events + 1)]
            case.equal("newest events delivered after recovery", sorted(set(told)), newest)


def _seen(post: Callable[..., object], see: Callable[[], None]) -> Callable[..., object]:
    def seen(*given: object) -> object:
        see()
        return post(*given)

    return seen


def _timed(act: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    act()
    return time.perf_counter() - began_s


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
    said = json.loads(run.stdout.readline())
    case.equal("ticks", said["ticks"], BLOCKED_TICKS)
    case.told("tick p99 ms", 1000 * said["p99_s"])
    case.at_least("lines dropped and counted", said["dropped"], 1)
    with os.fdopen(reads, "rb") as pipe:
        run.stdin.write("end\n")
        run.stdin.flush()
        lines = [json.loads(line) for line in pipe]
    case.equal("exit code", run.wait(300), 0)
    run.stdin.close()
    run.stdout.close()
    logged = LINES_A_TICK * BLOCKED_TICKS
    case.at_least("lines accounted for", len(lines) + said["dropped"], logged)
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
