"""The review of `ipa ci`: the changed pipelines at a base and in the work tree, planned and simulated."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

import ipa
from ipa.files.check import check_files
from ipa.files.document import read_document, unknown
from ipa.files.guardrails import NEEDS_PRICE, guardrails_in
from ipa.files.pipelines import FILE_NAME
from ipa.files.reading import is_file
from ipa.files.traces import trace_file, trace_in
from ipa.model.errors import InfeasibleError, InputError, Problem, UsageError
from ipa.model.guardrails import GuardrailFigures, Guardrails, Measure
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.model.resources import CORES, Prices, total
from ipa.policies.planning import plan_pipeline
from ipa.policies.registry import POLICIES
from ipa.profiling.evidence import unmeasured
from ipa.report.review import (
    PlanAt,
    Review,
    Reviewed,
    ReviewFinding,
    ReviewInputs,
    ReviewSide,
    Status,
    findings_of,
    is_above,
)
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
DEFAULT_WORKLOAD = "bursty"
# Found in the working folder, else at the top of the work tree.
GUARDRAILS_FILE = "guardrails.yaml"


class BaseRevision(Protocol):
    """The commit that the files of a work tree are compared with. Paths are relative to `root`."""

    @property
    def root(self) -> Path:
        """The top of the work tree."""

    @property
    def commit(self) -> str:
        """The whole name of the commit."""

    def changed(self) -> list[str]:
        """The files of the work tree that differ from the commit, new ones included."""

    def files(self, folders: Iterable[str]) -> list[str]:
        """The files in those folders at the commit."""

    def text(self, path: str) -> str:
        """The text of the file at the commit. InputError if it is not UTF-8."""


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


@dataclass(frozen=True, slots=True)
class _Files:
    """The pipeline and profiles of one side, the text of each file by its path, and their problems."""

    pipeline: Pipeline | None
    profiles: Mapping[str, StageProfile]
    texts: Mapping[str, bytes]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    """A pipeline on both sides; None if it is missing, or (before) unusable for the reason of `note`."""

    pipeline: str
    path: str
    status: Status
    before: _Files | None
    after: _Files | None
    note: str = ""

    def prices(self, guardrails: Guardrails) -> Prices | None:
        """The prices of both sides: the pipeline's, else that of a core in the guardrails.

        Both have those after the change, so that a cost changes with what is held, not with its price.
        """
        for files in (self.after, self.before):
            if files is not None and files.pipeline is not None and files.pipeline.prices.is_money:
                return files.pipeline.prices
        usd = guardrails.usd_per_core_hour
        return None if usd is None else Prices({CORES: usd}, is_money=True)


@dataclass(frozen=True, slots=True)
class _Folders:
    """The folders of pipelines and profiles, relative to the top of the work tree."""

    pipelines: str
    profiles: str

    def name(self, path: str) -> str | None:
        """The pipeline that the file belongs to; None for other files."""
        folder, _, file = path.rpartition("/")
        home, _, name = folder.rpartition("/")
        is_pipeline = home == self.pipelines and file == FILE_NAME
        return name if is_pipeline or (home == self.profiles and file.endswith(".yaml")) else None


@dataclass(frozen=True, slots=True)
class _Trial:
    """The inputs that both sides share; `say` receives the progress."""

    rates_rps: tuple[float, ...]
    asked: ReviewRequest
    settings: Settings
    say: Callable[[str], None]
    place_of: Callable[[Pipeline], SimulatedPlace]


def review_of(
    asked: ReviewRequest,
    base: BaseRevision,
    say: Callable[[str], None],
    place_of: Callable[[Pipeline], SimulatedPlace],
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
    folders = _Folders(_inside(base, settings.pipelines_dir), _inside(base, settings.profiles_dir))
    places = (Path(GUARDRAILS_FILE), base.root / GUARDRAILS_FILE)
    usual = next((place for place in places if place.is_file()), None)
    asked = replace(asked, policy_file=asked.policy_file or usual)
    guardrails, problems = _guardrails(base, folders, asked.policy_file)
    is_removed = asked.policy_file is None and GUARDRAILS_FILE in base.changed()
    missing = ""
    if asked.policy_file is None:
        missing = "the change removes the guardrails" if is_removed else "no guardrails"
        say(f"warning: {missing}: there is no {GUARDRAILS_FILE} here or at the top, so no figure can fail it")
    pairs = _pairs(base, folders, all_of_them=guardrails.path in base.changed())
    problems += [problem for pair in pairs if pair.after for problem in pair.after.problems]
    problems += [
        Problem(
            f"{rule.measure.value}: pipeline {pair.pipeline!r} has no prices; {NEEDS_PRICE}",
            path=guardrails.path,
            line=rule.line,
            column=1,
        )
        for pair in pairs
        if pair.after is not None and pair.after.pipeline is not None and pair.prices(guardrails) is None
        for rule in guardrails.rules(pair.pipeline)
        if rule.measure is Measure.USD_PER_HOUR
    ]
    rates_rps, inputs = _load(asked, base, guardrails)
    if problems:
        return Review(inputs, guardrails, problems=tuple(problems), guardrails_missing=missing)
    trial = _Trial(rates_rps, asked, settings, say, place_of)
    pairs = [pair for pair in pairs if pair.before or pair.after]
    reviewed = tuple(
        _reviewed(pair, guardrails, folders, trial, f"{at}/{len(pairs)} {pair.pipeline}")
        for at, pair in enumerate(pairs, 1)
    )
    return Review(inputs, guardrails, reviewed, guardrails_missing=missing, removes_guardrails=is_removed)


def _inside(base: BaseRevision, path: Path) -> str:
    """The path relative to the top of the work tree; UsageError if it is outside, or the top itself."""
    found, root = path.resolve(), base.root.resolve()
    if found == root or not found.is_relative_to(root):
        raise UsageError(f"{path} is not below {base.root}, the git work tree that is compared")
    return found.relative_to(root).as_posix()


def _guardrails(base: BaseRevision, folders: _Folders, file: Path | None) -> tuple[Guardrails, list[Problem]]:
    """The rules and the problems of their file, whose path is relative to the work tree if it is inside."""
    if file is None:
        return Guardrails(), []
    try:
        path = _inside(base, file)
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
    names = [folder.parent.name for folder in sorted((base.root / folders.pipelines).glob(f"*/{FILE_NAME}"))]
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
    return rates_rps, ReviewInputs(
        version=ipa.__version__,
        base=asked.base,
        commit=base.commit,
        load=load,
        duration_s=len(rates_rps),
        mean_rps=float(np.mean(rates_rps)),
        peak_rps=max(rates_rps),
        seeds=asked.seeds,
        policy=asked.policy,
    )


def _pairs(base: BaseRevision, folders: _Folders, *, all_of_them: bool) -> list[_Pair]:
    """The pipelines with a file that differs from the base; with `all_of_them` every pipeline."""
    there = base.files([folders.pipelines, folders.profiles])
    here = [
        path.relative_to(base.root).as_posix()
        for folder, pattern in ((folders.pipelines, f"*/{FILE_NAME}"), (folders.profiles, "*/*.yaml"))
        for path in sorted((base.root / folder).glob(pattern))
        if path.is_file()
    ]
    concerned = {folders.name(path) for path in (here if all_of_them else base.changed())}
    return [
        _pair(
            base,
            folders,
            name,
            *([path for path in side if folders.name(path) == name] for side in (there, here)),
        )
        for name in sorted(filter(None, concerned))
    ]


def _pair(
    base: BaseRevision, folders: _Folders, name: str, there: Sequence[str], here: Sequence[str]
) -> _Pair:
    path = f"{folders.pipelines}/{name}/{FILE_NAME}"
    after = _read(base.root, folders, here) if here else None
    before, note = None, ""
    try:
        before = _read_base(base, folders, there) if path in there else None
        if before is not None and before.problems:
            first = before.problems[0]
            raise InputError(f"{first.path}:{first.line}: {first.message}")
    except InputError as error:
        before, note = None, f"at the base its files could not be used: {error.message}"
    status = Status.ADDED if path not in there else Status.CHANGED
    if path not in here:
        # Profiles without a pipeline are only checked.
        status = Status.REMOVED
        after = after if after is not None and after.problems else None
    elif before is not None and after is not None and before.texts == after.texts:
        status = Status.UNCHANGED
    return _Pair(name, path, status, before, after, note)


def _read_base(base: BaseRevision, folders: _Folders, paths: Sequence[str]) -> _Files:
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            file = Path(folder) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(base.text(path), encoding="utf-8", newline="")
        return _read(Path(folder), folders, paths)


def _read(root: Path, folders: _Folders, paths: Sequence[str]) -> _Files:
    """The files below the root; problems name each file as one of the work tree."""
    checked = check_files([root / path for path in paths], root / folders.pipelines, root / folders.profiles)
    prefix = f"{root}/"
    problems = {
        replace(it, path=it.path.removeprefix(prefix), message=it.message.replace(prefix, ""))
        for each in checked
        for it in each.problems
    }
    return _Files(
        pipeline=next((each.pipeline for each in checked if each.pipeline is not None), None),
        profiles={each.profile.stage: each.profile for each in checked if each.profile is not None},
        texts={path: (root / path).read_bytes() for path in paths},
        problems=tuple(sorted(problems, key=lambda it: (it.path, it.line, it.column, it.message))),
    )


def _reviewed(pair: _Pair, guardrails: Guardrails, folders: _Folders, trial: _Trial, words: str) -> Reviewed:
    prices, rules = pair.prices(guardrails), guardrails.rules(pair.pipeline)
    after = _evaluate(pair.after, trial, prices, f"{words} after")
    is_same = pair.status is Status.UNCHANGED
    before = after if is_same else _evaluate(pair.before, trial, prices, f"{words} before")
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
        rules=rules,
        is_notable=is_above(guardrails, before, after),
        findings=unproven + findings_of(rules, before, after),
        note=pair.note,
    )


def _evaluate(files: _Files | None, trial: _Trial, prices: Prices | None, words: str) -> ReviewSide | None:
    """The evaluation of one side at those prices. It is planned and simulated on its file's target."""
    if files is None or files.pipeline is None:
        return None
    place = trial.place_of(files.pipeline)
    planned = place.shape(files.pipeline, files.profiles)
    plans = []
    for label, part in QUANTILES:
        rate_rps = max(float(np.quantile(trial.rates_rps, part)), LEAST_RPS)
        plan = plan_pipeline(planned, files.profiles, rate_rps, solver=SOLVER, deadline_s=DEADLINE_S)
        # Without its time, which differs from machine to machine.
        plans.append(PlanAt(label, rate_rps, replace(plan, solve_s=0.0)))
    setup = replace(
        as_served(files.pipeline, files.profiles, trial.rates_rps, trial.settings, place),
        policy=trial.asked.policy,
        solver=SOLVER,
        deadline_s=DEADLINE_S,
    )
    results = []
    for seed in range(trial.asked.seeds):
        trial.say(f"{words}: simulating {len(trial.rates_rps)} s, seed {seed + 1} of {trial.asked.seeds}")
        try:
            results.append(simulate(replace(setup, seed=seed)))
        except InfeasibleError as error:
            return ReviewSide(tuple(plans), None, why=error.message)
    return ReviewSide(tuple(plans), _figures(results, prices))


def _figures(results: Sequence[SimResult], prices: Prices | None) -> GuardrailFigures:
    """The figures over all runs: means over time are averaged, requests are pooled."""
    latencies_s = np.concatenate([result.latencies_s for result in results])
    p50_s, p99_s = np.quantile(latencies_s, (0.5, 0.99)) if len(latencies_s) else (None, None)
    requests = sum(len(result.born_s) for result in results)
    in_time = sum(int((result.latencies_s <= result.sla_s).sum()) for result in results)
    cores = float(np.mean([result.core_seconds / result.duration_s for result in results]))
    held = total(result.resource_seconds * (1 / result.duration_s) for result in results) * (1 / len(results))
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
        beside_mean=replace(held, cpu_cores=0.0),
    )
