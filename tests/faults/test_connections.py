"""R2: a thousand connections that send much, slowly, or never to an end, while others are served."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from experiments.attack.connections import ATTACKS, HOME, PATHS, Figures, attack
from tests.faults.attacked import BODY_S
from tests.faults.table import Case

pytestmark = pytest.mark.live
CONNECTIONS = 1000
SECONDS = 20.0
# On a machine of its own another client waits a fraction of a second; here the tests and others run beside
# it.
WAIT_S = 5.0


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    """Starts services."""
    command = [sys.executable, "-m", "tests.faults.attacked"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as made:
        # At the exit its input ends, and it stops the service that is still up; killed, it would not.
        yield made


@contextmanager
def attacked(nursery: subprocess.Popen[str], files: str) -> Iterator[tuple[int, int]]:
    """Port and process id of a service of its own."""
    assert nursery.stdin is not None and nursery.stdout is not None
    print(files, file=nursery.stdin, flush=True)
    port, pid = nursery.stdout.readline().split()
    try:
        yield int(port), int(pid)
    finally:
        print(file=nursery.stdin, flush=True)


def attacked_with(
    nursery: subprocess.Popen[str],
    name: str,
    *,
    files: str = "",
    connections: int = CONNECTIONS,
    seconds: float = SECONDS,
) -> Figures:
    """The figures of that attack."""
    [what] = [each for each in ATTACKS if each.name == name]
    with attacked(nursery, files) as (port, pid):
        return attack(what, HOME, port, connections=connections, seconds=seconds, pid=pid)


def report_figures(case: Case, figures: Figures) -> None:
    """The figures that are asked of every attack."""
    case.note("connections", figures.opened)
    case.equal("still open", figures.still_open, 0)
    case.at_most("closed after (s)", figures.longest_s, 10.0)
    case.at_most("memory grown (MB)", figures.grown_mb, 100.0)
    case.equal("requests of another client that failed", sum(figures.failed.values()), 0)
    for path in PATHS:
        case.at_most(f"longest wait for {path} (s)", figures.worst_s[path], WAIT_S)


@pytest.mark.parametrize(
    "name",
    [
        "1 MB bodies but for a byte",
        "bodies without an end",
        "headers without an end",
        "headers, a line a second",
        "half a request",
    ],
)
def test_r2_a_thousand_connections_are_closed_and_others_served(
    case: Case, nursery: subprocess.Popen[str], name: str
) -> None:
    figures = attacked_with(nursery, name)
    case.note("attack", name)
    report_figures(case, figures)
    case.at_most("open files", figures.most_open, 400)


def test_r2_who_comes_from_the_address_of_the_attacker_is_served_too(
    case: Case, nursery: subprocess.Popen[str]
) -> None:
    figures = attacked_with(nursery, "half a request, same address", seconds=3.0)
    case.at_least("connections", figures.opened, CONNECTIONS)
    case.at_most("open files", figures.most_open, 400)
    requests = sum(figures.requests.values())
    case.at_most(
        "requests of another client that failed (%)", 100 * sum(figures.failed.values()) / requests, 10.0
    )


def test_r2_connections_stay_below_the_limit_of_open_files(
    case: Case, nursery: subprocess.Popen[str]
) -> None:
    limit = 400
    figures = attacked_with(nursery, "half a request", files=str(limit), connections=600)
    report_figures(case, figures)
    case.at_most("open files", figures.most_open, limit - 100)
    case.note("a head and a body may take (s)", BODY_S)
