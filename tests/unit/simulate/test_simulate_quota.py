"""The simulated CPU quota beside the one of the local runtime, call by call."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.dataplane.quota import CpuQuota
from ipa.model.plan import quota_cores
from ipa.queueing.service import ServiceTime
from ipa.simulate import kernel
from ipa.simulate.kernel import KernelDriver, drive_compiled, drive_plain
from ipa.simulate.queue import Pods, QueueSim
from tests.unit.simulate.test_simulate_kernel import needs_numba


class Time:
    """A clock that is moved by hand."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def served_by_the_runtime(arrivals_s: list[float], cpu_s: float, cores: float) -> list[float]:
    """When each request is answered by one replica that computes `cpu_s` for each."""
    time = Time()
    quota = CpuQuota(cores, monotonic=time)
    ends_s = []
    for arrival_s in arrivals_s:
        time.now_s = max(time.now_s, arrival_s)
        quota.settle(0)
        time.now_s += cpu_s
        time.now_s += quota.charge(cpu_s)
        ends_s.append(time.now_s)
    return ends_s


@pytest.mark.parametrize("drive", [drive_plain, pytest.param(drive_compiled, marks=needs_numba)])
@settings(deadline=None)
@given(
    cores=st.sampled_from([0.1, 0.25, 0.5, 1.0]),
    cpu_s=st.floats(0.001, 0.3),
    gaps_s=st.lists(st.floats(0, 0.5), min_size=1, max_size=20),
)
def test_a_replica_with_a_quota_answers_when_the_runtime_does(
    drive: KernelDriver, cores: float, cpu_s: float, gaps_s: list[float]
) -> None:
    # Idle for long enough before the first that what it saved is a whole period.
    arrivals = 1.0 + np.cumsum(gaps_s)
    busy_s = cpu_s / cores if quota_cores(cores) else cpu_s
    service = ServiceTime(busy_s, busy_s, quota_cores=quota_cores(cores))
    queue = QueueSim(0.0, kernel.KEEP, 1.0, (1,), drive)
    queue.set_pods(0.0, [Pods(1, 1, service)])
    queue.offer((np.arange(len(arrivals)), arrivals, arrivals))
    queue.run(1000.0)
    done = queue.take_done(1000.0)
    assert done.done_s.tolist() == pytest.approx(served_by_the_runtime(arrivals.tolist(), cpu_s, cores))
