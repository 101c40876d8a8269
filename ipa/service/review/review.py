"""The review of `ipa ci`: the changed pipelines, evaluated on both sides and against guardrails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

import ipa
from ipa.files.document import read_document, unknown
from ipa.files.guardrails import NEEDS_PRICE, guardrails_in
from ipa.files.reading import is_file
from ipa.files.traces import trace_file, trace_in
from ipa.model.errors import DeadlineError, InfeasibleError, InputError, Problem, UsageError
from ipa.model.guardrails import GuardrailFigures, Guardrails, Measure
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan
from ipa.model.profile import StageProfile
from ipa.model.resources import CORES, Prices, total
from ipa.optimize.frontier import frontier
from ipa.policies.planning import plan_pipeline, planning_problem
from ipa.policies.registry import POLICIES
from ipa.profiling.evidence import unmeasured
from ipa.profiling.lint import doubt_of, doubts
from ipa.report.frontier_plot import accuracy_cost
from ipa.report.review.result import (
    FrontierSpot,
    PlanAt,
    Review,
    Reviewed,
    ReviewFinding,
    ReviewFrontier,
    ReviewInputs,
    ReviewSide,
    RunChange,
    findings_of,
    notable,
    percent,
)
from ipa.service.review.revisions import BaseRevision, Files, Folders, Pair, folders_of, inside, pairs_of
from ipa.service.simulation import SimulatedPlace, as_served, rates_of
from ipa.settings import Settings
from ipa.simulate.result import SimResult
from ipa.simulate.run import simulate

# The rates of the trace to plan for.
QUANTILES = (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
# The least rate to plan for, if the trace is almost empty.
LEAST_RPS = 0.1
# A solver without a licence, and a deadline that no machine reaches, so that every machine has the same plan.
SOLVER, DEADLINE_S = "exact", 120.0
# The rate of the frontier, and its time limit; the packaged pipelines take a second.
FRONTIER_AT, FRONTIER_S = "p95", 60.0
DEFAULT_WORKLOAD = "bursty"
# Found in the working folder, else at the top of the work tree.
GUARDRAILS_FILE = "guardrails.yaml"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReviewTrial:
    """The inputs that both sides share; each pipeline runs on its `place_of`, `say` receives the progress."""

    rates_rps: tuple[float, ...]
    seeds: int
    policy: str
    settings: Settings
    say: Callable[[str], None]
    place_of: Callable[[Pipeline], SimulatedPlace]

    def quantiles(self) -> list[tuple[str, float]]:
        """The rates in rps to plan for, with their labels."""
        return [
            (label, max(float(np.quantile(self.rates_rps, part)), LEAST_RPS)) for label, part in QUANTILES
        ]


def tried(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    trial: ReviewTrial,
    prices: Prices | None,
    words: str,
) -> ReviewSide:
    """The evaluation of one side at those prices. It is planned and simulated on its file's target."""
    place = trial.place_of(pipeline)
    planned = place.shape(pipeline, profiles)
    plans = tuple(
        PlanAt(label, rate_rps, deterministic_plan(planned, profiles, rate_rps))
        for label, rate_rps in trial.quantiles()
    )
    at = next(each for each in plans if each.label == FRONTIER_AT)
    could = _frontier(planned, profiles, at)
    setup = replace(
        as_served(pipeline, profiles, trial.rates_rps, trial.settings, place),
        policy=trial.policy,
        solver=SOLVER,
        deadline_s=DEADLINE_S,
    )
    results = []
    for seed in range(trial.seeds):
        trial.say(f"{words}: simulating {len(trial.rates_rps)} s, seed {seed + 1} of {trial.seeds}")
        try:
            results.append(simulate(replace(setup, seed=seed)))
        except InfeasibleError as error:
            return ReviewSide(plans, None, why=error.message, frontier=could)
    figures = _figures(results, prices)
    changes = tuple(
        RunChange(it.at_s, it.reason, it.configs) for it in results[0].ticks if it.reason.startswith("apply.")
    )
    return ReviewSide(plans, figures, changes, frontier=could)


def deterministic_plan(pipeline: Pipeline, profiles: Mapping[str, StageProfile], rate_rps: float) -> Plan:
    """The plan of the pipeline as its target runs it: the same on every machine."""
    plan = plan_pipeline(pipeline, profiles, rate_rps, solver=SOLVER, deadline_s=DEADLINE_S)
    return replace(plan, solve_s=0.0)


def _frontier(pipeline: Pipeline, profiles: Mapping[str, StageProfile], at: PlanAt) -> ReviewFrontier:
    """The frontier at that rate; empty if no plan is feasible."""
    if not at.plan.stages:
        return ReviewFrontier(at.label, at.rate_rps, ())
    try:
        found = frontier(planning_problem(pipeline, profiles, at.rate_rps), FRONTIER_S)
    except DeadlineError:
        return ReviewFrontier(at.label, at.rate_rps, (), f"it was not found within {FRONTIER_S:g} s")
    spots = (
        FrontierSpot(each.cost_cores, each.pas, each.latency_s, each.cost_usd_per_hour)
        for each in accuracy_cost(found)
    )
    return ReviewFrontier(at.label, at.rate_rps, tuple(spots))


def _figures(results: list[SimResult], prices: Prices | None) -> GuardrailFigures:
    """The figures over all runs: means over time are averaged, requests are pooled."""
    latencies_s = np.concatenate([result.latencies_s for result in results])
    p50_s, p99_s = np.quantile(latencies_s, (0.5, 0.99)) if len(latencies_s) else (None, None)
    requests = sum(len(result.born_s) for result in results)
    in_time = sum(int((result.latencies_s <= result.sla_s).sum()) for result in results)
    cores = float(np.mean([result.core_seconds / result.duration_s for result in results]))
    held = total(result.resource_seconds * (1 / result.duration_s) for result in results) * (1 / len(results))
    beside = replace(held, cpu_cores=0.0)
    return GuardrailFigures(
        requests=requests,
        late=requests - in_time,
        cores_mean=cores,
        cores_peak=max(tick.cores for result in results for tick in result.ticks),
        pas_mean=float(np.mean([result.pas_mean for result in results])),
        latency_p50_s=None if p50_s is None else float(p50_s),
        latency_p99_s=None if p99_s is None else float(p99_s),
        changes=sum(result.changes for result in results),
        usd_per_hour=None if prices is None else prices.cost(replace(held, cpu_cores=cores)),
        beside_mean=beside,
    )


@dataclass(frozen=True, slots=True)
class ReviewRequest:
    """The request of the command line. `load` is a trace file or the name of a workload."""

    base: str
    load: str | None
    policy_file: Path | None
    policy: str
    forecaster: str | None
    seeds: int
    pipelines_dir: Path | None
    profiles_dir: Path | None


def review_of(
    asked: ReviewRequest, base: BaseRevision, say: Say, place_of: Callable[[Pipeline], SimulatedPlace]
) -> Review:
    """The review of every changed pipeline; if files are wrong, of their faults alone.

    `base` is the revision that `asked.base` names; `place_of` returns the target of a pipeline. Errors:
    UsageError (no such policy, a folder outside the work tree), NotFoundError (no such trace or guardrails).
    """
    if not POLICIES.is_known(asked.policy):
        raise UsageError(f"--policy {asked.policy!r}: {unknown(asked.policy, POLICIES)}")
    settings = Settings.from_env(
        pipelines_dir=asked.pipelines_dir, profiles_dir=asked.profiles_dir, forecaster=asked.forecaster
    )
    folders = folders_of(base, settings.pipelines_dir, settings.profiles_dir)
    places = (Path(GUARDRAILS_FILE), base.root / GUARDRAILS_FILE)
    usual = next((place for place in places if place.is_file()), None)
    asked = replace(asked, policy_file=asked.policy_file or usual)
    guardrails, problems = _guardrails(base, folders, asked.policy_file)
    is_removed = asked.policy_file is None and GUARDRAILS_FILE in base.changed()
    missing = ""
    if asked.policy_file is None:
        missing = "the change removes the guardrails" if is_removed else "no guardrails"
        say(f"warning: {missing}: there is no {GUARDRAILS_FILE} here or at the top, so no figure can fail it")
    pairs = pairs_of(base, folders, all_of_them=guardrails.path in base.changed())
    problems += [problem for pair in pairs if pair.after for problem in pair.after.problems]
    problems += [
        Problem(
            f"{rule.measure.value}: pipeline {pair.pipeline!r} has no prices; {NEEDS_PRICE}",
            path=guardrails.path,
            line=rule.line,
            column=1,
        )
        for pair in pairs
        if pair.after is not None and pair.after.pipeline is not None and _prices(pair, guardrails) is None
        for rule in guardrails.rules(pair.pipeline)
        if rule.measure is Measure.USD_PER_HOUR
    ]
    rates_rps, inputs = _load(asked, base, guardrails)
    if problems:
        return Review(inputs, guardrails, problems=tuple(problems), guardrails_missing=missing)
    trial = ReviewTrial(rates_rps, asked.seeds, asked.policy, settings, say, place_of)
    pairs = [pair for pair in pairs if pair.before or pair.after]
    return Review(
        inputs,
        guardrails,
        tuple(
            _reviewed(pair, guardrails, folders, trial, f"{at}/{len(pairs)} {pair.pipeline}")
            for at, pair in enumerate(pairs, 1)
        ),
        guardrails_missing=missing,
        removes_guardrails=is_removed,
    )


def _guardrails(base: BaseRevision, folders: Folders, file: Path | None) -> tuple[Guardrails, list[Problem]]:
    """The rules and the problems of their file, whose path is relative to the work tree if it is inside."""
    if file is None:
        return Guardrails(), []
    try:
        path = inside(base, file)
    except UsageError:
        path = str(file)
    try:
        document = read_document(file)
        found = guardrails_in(document)
    except InputError as error:
        problems = error.problems or [Problem(error.message)]
        return Guardrails(path=path), [replace(problem, path=path) for problem in problems]
    if found.trace is not None and not is_file(trace_file(trace_in(file.parent, found.trace))):
        document.problem(("trace",), f"there is no file {trace_file(file.parent / found.trace)}")
        found = replace(found, trace=None)
    names = [folder.parent.name for folder in sorted((base.root / folders.pipelines).glob("*/pipeline.yaml"))]
    for name in found.by_pipeline or {}:
        if name not in names:
            words = f"there is no pipeline {name!r}; {unknown(name, names)}"
            document.problem(("pipelines", name), words, at_key=True)
    return replace(found, path=path), [replace(problem, path=path) for problem in document.problems]


def _load(
    asked: ReviewRequest, base: BaseRevision, guardrails: Guardrails
) -> tuple[tuple[float, ...], ReviewInputs]:
    """The rates by the second, and the inputs as the review prints them."""
    load = asked.load or guardrails.workload or DEFAULT_WORKLOAD
    if asked.load is None and guardrails.trace is not None and asked.policy_file is not None:
        load = trace_in(asked.policy_file.parent, guardrails.trace)
    rates_rps = rates_of(load, None, 1.0)
    if not max(rates_rps) > 0:
        raise InputError(f"the trace {load} has no requests")
    text = "\n".join(f"{rate:g}" for rate in rates_rps)
    return rates_rps, ReviewInputs(
        version=ipa.__version__,
        base=asked.base,
        commit=base.commit,
        load=load,
        load_sha256=sha256(text.encode()).hexdigest(),
        guardrails_sha256=sha256(asked.policy_file.read_bytes()).hexdigest() if asked.policy_file else "",
        duration_s=len(rates_rps),
        mean_rps=float(np.mean(rates_rps)),
        peak_rps=max(rates_rps),
        seeds=asked.seeds,
        policy=asked.policy,
    )


def _reviewed(
    pair: Pair, guardrails: Guardrails, folders: Folders, trial: ReviewTrial, words: str
) -> Reviewed:
    prices = _prices(pair, guardrails)
    after = _tried(pair.after, trial, prices, f"{words} after")
    before = after if pair.is_same else _tried(pair.before, trial, prices, f"{words} before")
    rules = guardrails.rules(pair.pipeline)
    # The stages whose profiles changed without a new measurement.
    both = pair.before and pair.after and (pair.before.profiles, pair.after.profiles)
    unproven = tuple(
        ReviewFinding(None, None, words, path=f"{folders.profiles}/{pair.pipeline}/{stage}.yaml")
        for stage, words in (unmeasured(*both) if both else ())
    )
    return Reviewed(
        pipeline=pair.pipeline,
        path=pair.path,
        status=pair.status,
        before=before,
        after=after,
        files=pair.files,
        rules=rules,
        is_notable=notable(guardrails, pair.status, before, after),
        findings=unproven + findings_of(rules, before, after),
        note="; ".join(filter(None, (pair.note, _missed(pair, before, after), *_doubted(pair)))),
    )


def _doubted(pair: Pair) -> Iterator[str]:
    """The profiles after the change that cannot be believed, unless they could not be before either."""
    if pair.after is None or pair.after.pipeline is None:
        return
    before = pair.before.profiles if pair.before is not None else {}
    for doubt in doubts(pair.after.pipeline.served, pair.after.profiles):
        if doubt.stage not in before or doubt_of(before[doubt.stage]) is None:
            yield str(doubt)


def _missed(pair: Pair, before: ReviewSide | None, after: ReviewSide | None) -> str:
    """The share of requests in time at the base, in words, if it is less than the base's own SLA asks for."""
    if before is None or before.figures is None or pair.before is None or pair.before.pipeline is None:
        return ""
    sla, met = pair.before.pipeline.sla, before.figures.slo_ratio
    if met * 100 >= sla.percentile:
        return ""
    now = ""
    if after is not None and after.figures is not None and after is not before:
        now = f", after the change {percent(after.figures.slo_ratio)}"
    return (
        f"the base misses its own SLA: {percent(met)} of the requests within {sla.latency_s:g} s, "
        f"where {sla.percentile:g} % is asked for{now}"
    )


def _prices(pair: Pair, guardrails: Guardrails) -> Prices | None:
    """The prices of both sides: the pipeline's, else that of a core in the guardrails.

    Both have those after the change, so that a cost changes with what is held, not with its price.
    """
    for files in (pair.after, pair.before):
        if files is not None and files.pipeline is not None and files.pipeline.prices.is_money:
            return files.pipeline.prices
    usd = guardrails.usd_per_core_hour
    return None if usd is None else Prices({CORES: usd}, is_money=True)


def _tried(files: Files | None, trial: ReviewTrial, prices: Prices | None, words: str) -> ReviewSide | None:
    if files is None or files.pipeline is None:
        return None
    return tried(files.pipeline, files.profiles, trial, prices, words)
