"""Replicas on CPUs, and cores over time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from ipa.targets.local.forkserver import CpuMap, move

Moves = list[tuple[int, tuple[int, ...]]]


def cpu_map(cpus: list[int]) -> tuple[CpuMap, Moves]:
    """A map and what it moves."""
    moves: Moves = []
    return CpuMap(cpus, move=lambda pid, to: moves.append((pid, tuple(to)))), moves


def test_whole_cores_have_cpus_of_their_own_and_all_others_share_the_rest() -> None:
    cpus, _ = cpu_map([0, 1, 2])
    assert cpus.place("router") == (0, 1, 2)
    assert cpus.place("a", 1) == (2,)
    assert cpus.place("b", 0.5) == (0, 1)
    assert cpus.place("c", 1.5) == (0, 1)
    assert cpus.place("d", 2) == (0, 1)  # nothing is left to the others then: all CPUs are theirs
    assert cpus.place("e", 0.5) == (0, 1, 2)


def test_who_has_a_cpu_keeps_it_and_the_others_are_moved_out_of_its_way() -> None:
    cpus, moves = cpu_map([0, 1])
    cpus.place("fraction", 0.5)
    cpus.started("fraction", 11)
    moves.clear()
    cpus.place("whole", 1)
    assert moves == [(11, (0,))]
    cpus.release("whole")
    assert moves == [(11, (0,)), (11, (0, 1))]


def test_who_came_beside_what_was_still_there_gets_its_own_cpu_when_that_has_gone() -> None:
    cpus, moves = cpu_map([0, 1])
    cpus.place("old", 1)
    cpus.place("fraction", 0.5)
    cpus.place("another", 1)
    assert cpus.place("new", 1) == (0, 1)
    cpus.started("new", 12)
    cpus.release("old")
    assert moves == [(12, (0, 1)), (12, (1,))]


def test_who_is_given_a_whole_core_gets_a_cpu_of_its_own_and_gives_it_back() -> None:
    cpus, moves = cpu_map([0, 1])
    for number, name in enumerate(("one", "other")):
        cpus.place(name, 0.5)
        cpus.started(name, 11 + number)
    moves.clear()
    cpus.resize("one", 1)
    assert sorted(moves) == [(11, (1,)), (12, (0,))]
    moves.clear()
    cpus.resize("one", 0.25)
    assert sorted(moves) == [(11, (0, 1)), (12, (0, 1))]


def test_where_there_are_too_few_cpus_whole_cores_share_all() -> None:
    cpus, _ = cpu_map([4, 5])
    assert cpus.place("d", 8) == (4, 5)


def test_who_is_moved_while_it_starts_is_where_it_should_be_once_it_has() -> None:
    cpus, moves = cpu_map([0, 1])
    cpus.place("fraction", 0.5)
    cpus.place("whole", 1)
    cpus.started("fraction", 11)
    assert moves == [(11, (0,))]


def test_every_thread_of_a_process_moves() -> None:
    every = os.sched_getaffinity(0)
    if len(every) < 2:
        pytest.skip("this machine has one CPU")
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        move(os.getpid(), {min(every)})
        assert thread.native_id is not None
        assert os.sched_getaffinity(thread.native_id) == {min(every)}
    finally:
        move(os.getpid(), every)
        stop.set()
        thread.join()


def test_a_process_that_has_ended_is_no_trouble() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    move(ended.pid, {0})
