"""The CPU quota as CFS bandwidth control: on average its cores, in bursts of a period at most."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.dataplane.quota import CpuQuota, GivenCores


class Time:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_what_fits_a_period_does_not_wait_and_the_rest_is_paid_off() -> None:
    quota = CpuQuota(0.25, monotonic=Time())
    assert quota.charge(0.025) == 0
    assert quota.charge(0.010) == pytest.approx(0.040)


def test_idle_time_refills_no_more_than_a_period() -> None:
    time = Time()
    quota = CpuQuota(0.5, monotonic=time)
    time.now_s = 1000
    quota.settle(0)
    assert quota.charge(0.15) == pytest.approx(0.2)


def test_a_trickle_while_idle_is_covered_by_what_comes_in() -> None:
    time = Time()
    quota = CpuQuota(0.25, monotonic=time)
    time.now_s = 60
    quota.settle(5)
    assert quota.charge(0.025) == pytest.approx(0)
    quota.settle(0.025)
    assert quota.charge(0) == pytest.approx(0.1)


@pytest.mark.parametrize("cores", [1, 2, 4.0])
def test_whole_cores_never_wait(cores: float) -> None:
    assert CpuQuota(cores, monotonic=Time()).charge(100) == 0


@pytest.mark.parametrize("cores", [0, -1])
def test_no_cores_are_refused(cores: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        CpuQuota(cores)


@given(
    cores=st.sampled_from([0.1, 0.25, 0.5, 1.5]),
    calls=st.lists(st.tuples(st.floats(0.001, 0.3), st.floats(0, 0.2)), min_size=1, max_size=30),
)
def test_usage_never_exceeds_the_quota_and_one_period(cores: float, calls: list[tuple[float, float]]) -> None:
    time = Time()
    quota = CpuQuota(cores, monotonic=time)
    used_s = 0.0
    for cpu_s, idle_s in calls:
        time.now_s += cpu_s  # one thread: the call takes as long as its CPU time
        used_s += cpu_s
        time.now_s += quota.charge(cpu_s)
        assert used_s <= cores * (time.now_s + 0.1) + 1e-9
        time.now_s += idle_s
        # Some of it was used meanwhile, by the server around the model.
        used_s += idle_s / 4
        quota.settle(idle_s / 4)


def test_a_busy_replica_takes_its_time_over_the_cores_however_long_a_call_is() -> None:
    time = Time()
    quota = CpuQuota(0.25, monotonic=time)
    quota.charge(0.025)
    for cpu_s in (0.01, 0.3, 0.02):
        began_s = time.now_s
        quota.settle(0)
        time.now_s += cpu_s
        time.now_s += quota.charge(cpu_s)
        assert time.now_s - began_s == pytest.approx(cpu_s / 0.25)


def test_a_debt_is_paid_back_with_the_cores_given_meanwhile() -> None:
    time = Time()
    quota = CpuQuota(0.25, monotonic=time)
    assert quota.charge(0.125) == pytest.approx(0.4)
    time.now_s = 0.2
    quota.resize(0.5)
    assert quota.charge(0.0) == pytest.approx(0.1)
    time.now_s = 1000
    quota.settle(0.0)
    assert quota.charge(0.05) == 0, "a period of the new rate"
    assert quota.charge(0.05) == pytest.approx(0.1)
    quota.resize(1.0)
    assert quota.charge(9.0) == 0, "its threads are the limit"


def test_cores_are_those_of_the_file_while_it_makes_sense(tmp_path: Path) -> None:
    file = tmp_path / "cores"
    given = GivenCores({"IPA_CORES": "0.5", "IPA_CORES_FILE": str(file)})
    readings = [given.now()]
    for text in ("0.25", "much", "-1", "inf", "1"):
        part = tmp_path / "part"
        part.write_text(text)
        part.replace(file)
        readings.append(given.now())
    file.unlink()
    assert [*readings, given.now()] == [0.5, 0.25, 0.25, 0.25, 0.25, 1.0, 1.0]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, 1.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.0),
        ({"cpu.max": "what\n"}, 1.0),
        ({}, 1.0),
    ],
)
def test_a_container_has_the_cores_of_its_limit(files: dict[str, str], cores: float, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert GivenCores({}, tmp_path).now() == cores
    assert GivenCores({"IPA_CORES": "0.25"}, tmp_path).now() == 0.25
