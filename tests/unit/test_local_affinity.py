"""Replicas on CPUs, and cores over time."""

from __future__ import annotations

import pytest

from ipa.adapters.local.affinity import CoreMeter, CpuMap


def test_fractions_share_a_cpu_until_it_is_full_and_whole_cores_get_their_own() -> None:
    cpus = CpuMap([0, 1])
    assert cpus.place("a", 0.5) == (0,)
    assert cpus.place("b", 0.5) == (0,)
    assert cpus.place("c", 1) == (1,)
    assert cpus.place("d", 0.25) == (0,)  # nothing is free: the least loaded


def test_what_is_released_is_given_again() -> None:
    cpus = CpuMap([4, 5])
    cpus.place("a", 1)
    cpus.place("b", 1)
    cpus.release("a")
    assert cpus.place("c", 1) == (4,)
    assert cpus.place("d", 8) == (4, 5)


def test_core_seconds_are_the_integral_with_overlap() -> None:
    meter = CoreMeter()
    meter.add(2, now_s=10)
    meter.add(0.5, now_s=14)
    meter.add(-2, now_s=16)
    assert meter.core_seconds(20) == pytest.approx(2 * 6 + 0.5 * 6)
