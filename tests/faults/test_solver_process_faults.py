"""Solvers in processes of their own that hang, die, answer rubbish, or have no licence."""

from __future__ import annotations

import logging
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from time import perf_counter

import gurobipy as gp
import psutil
import pytest

from ipa.adapters.solvers.process import Worker
from ipa.adapters.solvers.supervised import Supervised
from ipa.model.errors import DeadlineError, IpaError, LicenceError, SolverError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.optimize import deadline, solver_selection
from ipa.optimize.backends import gurobi, highs
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import Milp
from ipa.optimize.problem import Compat
from ipa.optimize.solve import solve
from ipa.policies.ours import Ours
from ipa.policies.profiled import PlannerInputs, Profiled
from tests.fakes.planner_instances import random_problem
from tests.fakes.world import PIPELINE, PROFILES, scenario
from tests.faults.solvers import DYING, IGNORING, command
from tests.faults.table import Case

LIMIT_S, GRACE_S = 0.1, 0.1
# A machine that is busy may be late itself; a solver that was not stopped would be later than any limit.
LATE_S = 5.0


@pytest.fixture
def milp() -> Milp:
    """One of many columns, the last is best: more than a pipe holds, and solved at once."""
    columns = 8000
    made = Milp(columns, [float(at) for at in range(columns)], [1.0] * columns)
    made.add_row([(at, 1.0) for at in range(columns)], 1.0, 1.0)
    assert len(pickle.dumps(made)) > 65536
    return made


class Counted:
    """The pids of the processes that were started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pids: list[int] = []
        made = Worker.__init__

        def init(worker: Worker, argv: list[str]) -> None:
            made(worker, argv)
            self.pids.append(worker._process.pid)

        monkeypatch.setattr(Worker, "__init__", init)

    def alive(self) -> int:
        return sum(psutil.pid_exists(pid) for pid in self.pids)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.mark.live
def test_s3_a_solver_that_ignores_its_limit_is_killed(case: Case, milp: Milp, started: Counted) -> None:
    late_s, stopped = [], 0
    for body in IGNORING.values():
        apart = Supervised("highs", command(body), GRACE_S)
        for _ in range(2):
            began_s = perf_counter()
            try:
                apart(milp, Deadline(LIMIT_S))
            except DeadlineError:
                stopped += 1
            # Starting a process is not the solver's time, yet the tick's.
            late_s.append(perf_counter() - began_s - LIMIT_S)
    case.equal("stopped", stopped, 2 * len(IGNORING))
    case.at_most("overrun s p99, a process' start included", max(late_s), LATE_S)
    case.equal("orphan processes", started.alive(), 0)


def test_s3_the_pool_is_healthy_after_it(
    case: Case, milp: Milp, started: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By processor time, who drips would be waited for over half a minute.
    monkeypatch.setattr(deadline, "perf_counter", perf_counter)
    commands = [command(body)("") for body in IGNORING.values()]
    good = Supervised("highs")
    apart = Supervised("highs", lambda name: commands.pop() if commands else good._command(name), GRACE_S)
    try:
        for _ in IGNORING:
            with pytest.raises(DeadlineError):
                apart(milp, Deadline(LIMIT_S))
        case.equal(
            "correct results afterwards",
            apart(milp, Deadline(60.0)) == highs.maximise(milp, Deadline(60.0)),
            True,
        )
        case.equal("processes", started.alive(), 1)
    finally:
        apart.close()
    case.equal("orphan processes", started.alive(), 0)


# Starts a solver's process that stays in a step for ever, says its pid, and is killed.
PARENT = """
import asyncio, sys, threading
from ipa.adapters.solvers import process
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import Milp
spin = "import ipa.adapters.solvers.process as s; s.ORPHAN_S = 0.2\\n" \\
    "import os, sys\\ndef spin(milp, deadline):\\n os.write(2, b'spinning\\\\n')\\n while True: pass\\n" \\
    "s.serve(spin, sys.stdin.buffer, sys.stdout.buffer)"
worker = process.Worker([sys.executable, "-c", spin])
print(worker._process.pid, flush=True)
asyncio.run(worker.ask((Milp(0, [], []), 0.2), 600.0))
"""


def test_s3_no_orphan_where_the_service_itself_is_killed(case: Case) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PARENT], **pipes, text=True) as parent:
        assert parent.stdout is not None and parent.stderr is not None
        solver = psutil.Process(int(parent.stdout.readline()))
        assert parent.stderr.readline() == "spinning\n"
        parent.send_signal(signal.SIGKILL)
        parent.stderr.close()
    gone, alive = psutil.wait_procs([solver], timeout=300)
    case.equal("orphan processes", len(alive), 0)
    assert gone


@pytest.mark.parametrize("way", DYING)
def test_s4_a_solver_that_dies_or_answers_rubbish(case: Case, milp: Milp, started: Counted, way: str) -> None:
    case.title += f": {way}"
    with pytest.raises(SolverError) as caught:
        Supervised("highs", command(DYING[way]), 30.0)(milp, Deadline(1.0))
    case.note("error", caught.value.code)
    case.equal("processes left", started.alive(), 0)


def test_s4_the_loop_holds_and_goes_on(case: Case) -> None:
    """In every other tick the processes of all plans die; the service does not."""
    bodies = [*DYING.values()]
    calls = 0
    planned = Profiled(PlannerInputs(PIPELINE, PROFILES, solver="highs"), compat=Compat.PAPER)

    def planner(pipeline: Pipeline, rate_rps: float, running: Sequence[StageConfig] = ()) -> Plan:
        nonlocal calls
        calls += 1
        if len(made.store.recorded) % 2 == 0:
            body = bodies[calls % len(bodies)]
            apart = Supervised("highs", command(body), 30.0)
            return solve(random_problem(Random(4)), "highs", 1.0, solvers=lambda _: apart)
        return replace(planned.plan(pipeline, rate_rps, running), solve_s=0.0)

    made = scenario(25.0, policy=Ours(PIPELINE, planner))
    decisions = made.ticks(8)
    reasons = [decision.reason.value for decision in decisions]
    case.equal("first reason", reasons[0], "hold.solver_failed")
    case.equal("then", reasons[1], "apply.first_plan")
    case.equal("ticks that decided", len(reasons), 8)
    case.equal("writes", len(made.workload.writes), 1)


LICENCES = {
    10009: "Error 10009: License expired 2026-11-01",
    10010: "Model too large for size-limited license",
    10022: "Could not resolve token server",
    10030: "Compute Server: no session is free",
}


@pytest.mark.parametrize("code", LICENCES)
def test_s5_without_a_licence_label_setting_decides(
    case: Case, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    case.title += f": {code}"

    def refuse() -> gp.Env:
        raise gp.GurobiError(code, LICENCES[code])

    problems = [random_problem(Random(seed), stages=(2, 4), variants=(2, 5)) for seed in range(12)]
    expected = [solve(problem, "exact", 60.0, explain=False) for problem in problems]
    monkeypatch.setattr(gurobi, "_environment", refuse)
    monkeypatch.setattr(solver_selection, "own_licence", lambda: "own.lic")
    plans = [solve(problem, "auto", 60.0, explain=False) for problem in problems]
    pairs = [*zip(plans, expected, strict=True)]
    case.equal(
        "decisions other than label setting's",
        sum((one.configs, one.objective) != (two.configs, two.objective) for one, two in pairs),
        0,
    )
    # Without options no engine is asked.
    by_label_setting = [one for one in plans if one.solver == "exact"]
    assert len(by_label_setting) > 3
    case.equal(
        "plans that give the reason",
        sum(LICENCES[code] in one.note for one in by_label_setting),
        len(by_label_setting),
    )


def test_s5_it_is_said_once_an_hour(case: Case, milp: Milp, caplog: pytest.LogCaptureFixture) -> None:
    from ipa.adapters.solvers import supervised as module

    refusing = (
        "import ipa.adapters.solvers.process as s, sys\n"
        "from ipa.model.errors import LicenceError\n"
        "def refuse(milp, deadline): raise LicenceError('Gurobi has no licence')\n"
        "s.serve(refuse, sys.stdin.buffer, sys.stdout.buffer)"
    )
    now_s = 0.0
    apart = Supervised("gurobi", lambda _: [sys.executable, "-c", refusing], now_s=lambda: now_s)
    refused = 0
    try:
        with caplog.at_level(logging.WARNING, "ipa.solvers"):
            # Three hours of plans, one a minute.
            for tick in range(3 * 60):
                now_s = 60.0 * tick
                try:
                    apart(milp, Deadline(60.0))
                except IpaError as error:
                    refused += isinstance(error, LicenceError)
    finally:
        apart.close()
    case.note("refusals", refused)
    case.equal("log lines/h", len(caplog.records) / 3, 1.0)
    assert module.SAY_AGAIN_S == 3600.0
