"""The planning problem of a command line, and its answers: a configuration, a change, a set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa.cli.lookup import load
from ipa.cli.options.parsing import choice_of
from ipa.cli.output import Step
from ipa.model.errors import DeadlineError, InfeasibleError, UsageError
from ipa.model.errors import Problem as Fault
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, Termination
from ipa.model.profile import StageProfile
from ipa.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ipa.policies.planning import PlanQuestion

EXIT_CODES = {
    Termination.INFEASIBLE: InfeasibleError.exit_code,
    Termination.NO_SOLUTION_FOUND: DeadlineError.exit_code,
}


@dataclass(frozen=True)
class Question:
    """The planning problem of a command line, without its rates."""

    pipeline: str
    objective: str | None
    compat: str
    allocation: str
    solver: str | None
    pipelines_dir: Path | None
    profiles_dir: Path | None
    # The target of the plan; None: only replicas count.
    at: str | None = None

    @cached_property
    def files(self) -> tuple[Pipeline, dict[str, StageProfile], Settings]:
        """The pipeline, its profiles by stage, and the settings, read once. Errors: those of `load`."""
        return load(self.pipeline, self.pipelines_dir, self.profiles_dir)

    @property
    def search(self) -> tuple[str, float]:
        """The solver and its time limit in seconds."""
        _, _, settings = self.files
        return self.solver or settings.solver, settings.solver_deadline_s

    def asked(self, rate_rps: float) -> PlanQuestion:
        """The question with its files, of the pipeline as its target runs it and could elsewhere.

        UsageError: no such target, or not in the pipeline's file. InputError lists keys without effect.
        """
        from ipa.bootstrap.targets import check_honoured, target_named
        from ipa.optimize.problem import Compat
        from ipa.policies.planning import PlanQuestion
        from ipa.profiling.points import Allocation

        compat = choice_of("--compat", self.compat, Compat)
        allocation = choice_of("--allocation", self.allocation, Allocation)
        pipeline, profiles, _ = self.files
        asked = PlanQuestion(pipeline, profiles, rate_rps, self.objective, compat, allocation)
        if self.at is None:
            return asked
        target = target_named(self.at)
        if not target.placed(pipeline):
            raise UsageError(
                f"pipeline {pipeline.name!r} has no section for {target.title}, "
                "so what it takes is not known",
                hint=f"Give it a `{target.sections.key}:` section, or leave out --at.",
            )
        check_honoured(target, [pipeline])
        elsewhere = target.elsewhere(pipeline, profiles)
        return replace(asked, pipeline=target.shape(pipeline, profiles), elsewhere=elsewhere)


def plans(
    question: Question, rates: list[float], *, explain: bool, step: Step = lambda *_: None
) -> list[Plan]:
    """The best plan for each rate; with `explain`, infeasible ones say what would make them feasible.

    `step` receives each rate that is done.
    """
    from ipa.optimize.solve import solve
    from ipa.policies.planning import check_rate

    for rate in rates:
        check_rate(rate)
    problem = question.asked(rates[0]).problem()
    found = []
    for rate in rates:
        found.append(solve(replace(problem, rate_rps=rate), *question.search, explain=explain))
        step(f"{rate:g} rps")
    return found


def best_plan(question: Question, rate: float, deadline_s: float) -> tuple[PlanQuestion, Plan]:
    """The question for the rate and its best plan, for a verb that analyses it within `deadline_s`.

    UsageError if that is not above 0.
    """
    from ipa.optimize.solve import solve

    if not deadline_s > 0:
        raise UsageError(f"--deadline must be above 0 seconds, not {deadline_s:g}")
    asked = question.asked(rate)
    return asked, solve(asked.problem(), *question.search)


@dataclass(frozen=True, slots=True)
class PlanChoice:
    """The kind of plan that the command line asks for; None: that of the pipeline's file."""

    sets: bool | None = None
    running: Path | None = None


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """An answer: its JSON values, its lines and tables for people, and the termination of the search."""

    values: dict[str, Any]
    lines: Iterator[RenderableType]
    termination: Termination

    @property
    def exit_code(self) -> int:
        """The exit code of the verb: 0 if there is a plan."""
        return EXIT_CODES.get(self.termination, 0)


def planned(question: Question, rate_rps: float, compat: str | None, choice: PlanChoice) -> PlanAnswer:
    """The answer for the rate. `compat` None is `tail`, for sets `paper`.

    UsageError lists the options that contradict each other.
    """
    from ipa.files.pipelines import find_pipeline
    from ipa.policies.planning import check_rate

    check_rate(rate_rps)
    folder = Settings.from_env(pipelines_dir=question.pipelines_dir).pipelines_dir
    pipeline = find_pipeline(question.pipeline, folder)
    if pipeline.sets if choice.sets is None else choice.sets:
        faults = []
        if question.allocation == "base":
            faults.append("--allocation base fixes the cores of a replica, which a set decides")
        if question.solver not in (None, "auto", "exact"):
            faults.append(f"--solver {question.solver}: sets are solved by label setting, exact")
        if choice.running is not None:
            faults.append("--running: loading a variant costs nothing in a set, so what runs changes no set")
        if question.at is not None:
            faults.append("--at: containers beside a set's variants are not counted")
        if faults:
            raise UsageError(
                "options that do not apply to a set",
                problems=[Fault(fault) for fault in faults],
                hint="Leave them out, or add --no-sets to plan one configuration.",
            )
        return _set(replace(question, compat=compat or "paper"), rate_rps)
    question = replace(question, compat=compat or "tail")
    if choice.running is not None:
        return _change(question, rate_rps, pipeline, choice.running)
    from ipa.cli.views.plan_text import plan_lines

    found = plans(question, [rate_rps], explain=True)[0]
    return PlanAnswer(found.to_json(), plan_lines(found), found.termination)


def _change(question: Question, rate_rps: float, pipeline: Pipeline, path: Path) -> PlanAnswer:
    from ipa.cli.views.plan_text import change_lines, plan_lines
    from ipa.files.plans import load_running
    from ipa.optimize.change import change_of
    from ipa.optimize.solve import solve

    running = load_running(path, pipeline)
    problem = replace(question.asked(rate_rps).problem(), running=running)
    found = solve(problem, *question.search)
    change = change_of(problem, found) if found.configs else None

    lines = chain(plan_lines(found), change_lines(change) if change is not None else ())
    values = {**found.to_json(), "change": None if change is None else change.to_json()}
    return PlanAnswer(values, lines, found.termination)


def _set(question: Question, rate_rps: float) -> PlanAnswer:
    from ipa.cli.views.plan_text import set_lines
    from ipa.optimize.problem import Compat
    from ipa.policies.setplanning import plan_set, set_question

    pipeline, profiles, _ = question.files
    compat = choice_of("--compat", question.compat, Compat)
    asked = set_question(pipeline, profiles, rate_rps, objective=question.objective, compat=compat)
    _, deadline_s = question.search
    found = plan_set(asked, deadline_s)
    return PlanAnswer(found.to_json(), set_lines(found), found.plan.termination)
