"""Engines side by side: who gets which problem, what counts as a failure, who contradicts whom."""

from __future__ import annotations

from typing import Any

from experiments.bench.cell import Cell
from experiments.bench.race import Effort, disagreements, race

CELL = Cell(2, 3)
EFFORT = Effort(instances=4, deadline_s=1.0, budget_s=10.0)


def answer(objective: float | None = 1.0, ms: float = 1.0, failure: str = "", **more: Any) -> dict[str, Any]:
    proved = failure == ""
    return {
        "ms": ms,
        "failure": failure,
        "message": failure,
        "proved": proved,
        "objective": objective,
        "peak_mb": 2.0,
        **more,
    }


class Scripted:
    """An engine that gives the answers it was told, the last one for ever."""

    def __init__(self, name: str, *answers: dict[str, Any], log: list[tuple[str, int]] | None = None) -> None:
        self.name, self.answers, self.log = name, answers, log if log is not None else []

    def start(self) -> None:
        """Nothing to start."""

    def solve(self, cell: Cell, seed: int, deadline_s: float, *, without_sla: bool = False) -> dict[str, Any]:
        self.log.append((self.name, seed))
        return self.answers[min(seed, len(self.answers) - 1)]


def test_every_engine_gets_every_problem_and_they_take_turns_at_being_first() -> None:
    log: list[tuple[str, int]] = []
    race(CELL, [Scripted(name, answer(), log=log) for name in "abc"], EFFORT)
    assert sorted(log) == sorted((name, seed) for name in "abc" for seed in range(4))
    assert [name for name, _ in log] == [*"abc", *"bca", *"cab", *"abc"]
    assert [seed for _, seed in log] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_row_has_the_median_the_worst_and_the_peak() -> None:
    times = [answer(ms=ms) for ms in (1.0, 9.0, 2.0, 3.0)]
    times[2]["peak_mb"] = 7.0
    (row,) = race(CELL, [Scripted("a", *times)], EFFORT)
    assert (row["engine"], row["stages"], row["variants"], row["batches"], row["cores"]) == ("a", 2, 3, 7, 1)
    assert (row["instances"], row["median_ms"], row["worst_ms"], row["failures"]) == (4, 2.5, 9.0, 0)
    assert row["peak_mb"] == 7.0


def test_failures_are_counted_by_kind_and_only_deadlines_have_a_time() -> None:
    late = answer(0.5, ms=1000.0, failure="deadline")
    refused = answer(None, ms=0.1, failure="licence")
    broken = answer(None, ms=0.2, failure="error")
    (row,) = race(CELL, [Scripted("a", late, refused, broken, answer(ms=5.0))], EFFORT)
    assert (row["deadline"], row["licence"], row["error"], row["failures"]) == (1, 1, 1, 3)
    assert (row["median_ms"], row["worst_ms"], row["instances"]) == (502.5, 1000.0, 4)
    assert row["messages"] == ["deadline", "licence", "error"]


def test_an_engine_that_answers_nothing_has_no_times() -> None:
    (row,) = race(CELL, [Scripted("a", answer(None, failure="licence"))], EFFORT)
    assert (row["median_ms"], row["worst_ms"], row["failures"]) == (None, None, 4)


def test_an_engine_that_used_up_its_budget_leaves_and_the_others_go_on() -> None:
    effort = Effort(instances=4, deadline_s=1.0, budget_s=1.5)
    slow, fast = race(CELL, [Scripted("slow", answer(ms=900.0)), Scripted("fast", answer(ms=1.0))], effort)
    assert (slow["instances"], fast["instances"]) == (2, 4)


def test_a_worse_optimum_is_a_failure_of_the_engine_that_proves_it() -> None:
    good, bad = race(CELL, [Scripted("good", answer(2.0)), Scripted("bad", answer(2.0 - 1e-7))], EFFORT)
    assert (good["disagreement"], good["failures"]) == (0, 0)
    assert (bad["disagreement"], bad["failures"]) == (4, 4)
    assert "bad proves 1.9999999, good reaches 2.0" in bad["messages"][0]


def test_what_disagrees() -> None:
    assert disagreements({"a": answer(2.0), "b": answer(2.0 - 1e-10)}, "") == {}
    assert disagreements({"a": answer(None), "b": answer(None)}, "") == {}
    assert list(disagreements({"a": answer(None), "b": answer(2.0)}, "")) == ["a"]
    # What a passed deadline leaves claims nothing, but what it holds is a plan.
    assert disagreements({"a": answer(1.0, failure="deadline"), "b": answer(2.0)}, "") == {}
    assert list(disagreements({"a": answer(3.0, failure="deadline"), "b": answer(2.0)}, "")) == ["b"]
    assert disagreements({"a": answer(None, failure="licence"), "b": answer(None)}, "") == {}
    # Large objectives are compared relative to their size.
    assert disagreements({"a": answer(1e6), "b": answer(1e6 - 1e-4)}, "") == {}


def test_shares_count_problems_without_a_plan_and_those_better_without_the_sla() -> None:
    engine = Scripted("a", answer(None), answer(1.0), answer(1.0), answer(1.0))
    probe = Scripted("probe", answer(9.0), answer(1.0), answer(1.5), answer(1.0))
    (row,) = race(CELL, [engine], EFFORT, probe)
    assert (row["infeasible_share"], row["binding_share"]) == (0.25, 0.25)
    assert [seed for _, seed in probe.log] == [1, 2, 3]
