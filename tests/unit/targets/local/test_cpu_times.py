"""CPU times as Linux counts them: of made up files, and of this machine beside a busy loop."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ipa.profiling.measure import CpuTimes, foreign_use
from ipa.targets.local.bench import TICKS_PER_S, cpu_times

CPUS = sorted(os.sched_getaffinity(0))


def proc_of(folder: Path, *, steal: int = 0, name: str = "a (b) c") -> Path:
    """A /proc of the CPUs of this process, this process and one of pid 1."""
    lines = [f"cpu{cpu} 100 10 50 9999 1 2 3 {steal} 0 0" for cpu in (*CPUS, 4095)]
    (folder / "stat").write_text("\n".join(["cpu 1 2 3 4 5 6 7 8 9 0", *lines, "intr 1", "ctxt 2"]))
    for pid, ticks in ((os.getpid(), 30), (1, 70)):
        (folder / str(pid)).mkdir()
        (folder / str(pid) / "stat").write_text(f"{pid} ({name}) S {'0 ' * 10}{ticks} 5 0 0")
    (folder / "self").mkdir()
    (folder / "77").mkdir()
    return folder


def test_times_are_those_of_processes_and_steal(tmp_path: Path) -> None:
    found = cpu_times([], proc=proc_of(tmp_path, steal=40))
    assert found is not None
    assert found.used_s == dict.fromkeys(CPUS, pytest.approx(200 / TICKS_PER_S))
    assert found.stolen_s == pytest.approx(len(CPUS) * 40 / TICKS_PER_S)
    assert found.own_s == pytest.approx(35 / TICKS_PER_S)
    assert found.others_s == {(1, "a (b) c"): pytest.approx(75 / TICKS_PER_S)}


def test_measured_processes_are_own(tmp_path: Path) -> None:
    found = cpu_times([1], proc=proc_of(tmp_path))
    assert found is not None
    assert (found.own_s, found.others_s) == (pytest.approx(110 / TICKS_PER_S), {})


def test_a_replica_that_may_run_on_every_cpu_is_bound_to_none(tmp_path: Path) -> None:
    proc = proc_of(tmp_path)
    every, one = cpu_times([], CPUS, proc), cpu_times([], CPUS[:1], proc)
    assert every is not None
    assert one is not None
    assert every.bound == frozenset()
    assert one.bound == (frozenset(CPUS[:1]) if len(CPUS) > 1 else frozenset())


@pytest.mark.parametrize("text", [None, "cpu 1 2 3\ncpu0 1 2 3\n", "cpu0 a b c d e f g h\n"])
def test_nothing_is_seen_where_the_kernel_does_not_count(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert cpu_times([], proc=tmp_path) is None


@pytest.fixture
def loops() -> Iterator[list[int]]:
    """A busy loop for each CPU."""
    with ExitStack() as stack:
        started = [
            stack.enter_context(subprocess.Popen([sys.executable, "-c", "while 1: pass"])) for _ in CPUS
        ]
        for each in started:
            stack.callback(each.kill)
        yield [each.pid for each in started]


def _seen() -> CpuTimes:
    found = cpu_times([])
    assert found is not None
    return found


def test_busy_loops_beside_are_foreign(loops: list[int]) -> None:
    def looped_s(seen: CpuTimes) -> float:
        return sum(used_s for (pid, _), used_s in seen.others_s.items() if pid in loops)

    before = _seen()
    after = _seen()
    # They run as long as it takes on this machine, however busy it is otherwise.
    while looped_s(after) - looped_s(before) < 0.5 * len(CPUS):
        after = _seen()
    found = foreign_use(before, after, float(len(CPUS)))
    assert found is not None
    assert not found.is_quiet
    assert found.largest
