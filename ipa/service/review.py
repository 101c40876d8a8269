"""The review of `ipa ci`: the changed pipelines at a base and in the work tree, planned and simulated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import ipa
from ipa.files.check import check_files
from ipa.files.document import read_document, unknown
from ipa.files.guardrails import NEEDS_PRICE, GuardrailFigures, Guardrails, Measure, guardrails_in
from ipa.files.pipelines import FILE_NAME
from ipa.files.reading import is_file
from ipa.files.traces import trace_file, trace_in
from ipa.model.errors import InfeasibleError, InputError, Problem, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.model.resources import CORES, Prices, total
from ipa.policies.planning import plan_pipeline
from ipa.policies.registry import POLICIES
from ipa.profiling.findings import unmeasured_changes
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
from ipa.simulate.run import SimResult, simulate

# The rates of the trace to plan for.
QUANTILES = (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
# The least rate to plan for, if the trace is almost empty.
LEAST_RPS = 0.1
# A solver without a licence, and a deadline that no machine reaches, so that every machine has the same plan.
SOLVER, DEADLINE_S = "exact", 120.0
DEFAULT_WORKLOAD = "bursty"
# Found in the working folder, else at the top of the work tree.
GUARDRAILS_FILE = "guardrails.yaml"


# The folders of pipelines and of profiles, relative to the top of the work tree.
Folders = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ReviewRequest:
    """The files below `root` to compare with those below `before`, which are the files of `commit`.

    `load` is a trace file or the name of a workload, `place_of` returns the target of a pipeline, and `say`
    receives the progress.
    """

    root: Path
    before: Path
    base: str
    commit: str
    load: str | None
    policy_file: Path | None
    policy: str
    seeds: int
    settings: Settings
    place_of: Callable[[Pipeline], SimulatedPlace]
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Files:
    """The pipeline and profiles of one side, and their problems."""

    pipeline: Pipeline | None
    profiles: Mapping[str, StageProfile]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Change:
    """A pipeline on both sides; None if it is missing, or (before) unusable for the reason of `note`."""

    pipeline: str
    path: str
    status: Status
    before: _Files | None
    after: _Files | None
    note: str

    def prices(self, guardrails: Guardrails) -> Prices | None:
        """The prices of both sides: the pipeline's, else that of a core in the guardrails.

        Both have those after the change, so that a cost changes with what is held, not with its price.
        """
        for files in (self.after, self.before):
            if files is not None and files.pipeline is not None and files.pipeline.prices.is_money:
                return files.pipeline.prices
        usd = guardrails.usd_per_core_hour
        return None if usd is None else Prices({CORES: usd}, is_money=True)


def review_of(asked: ReviewRequest) -> Review:
    """The review of every changed pipeline; if files are wrong, of their faults alone.

    Errors: UsageError (no such policy, a folder outside the work tree), NotFoundError (no such trace or
    guardrails).
    """
    if not POLICIES.is_known(asked.policy):
        raise UsageError(f"--policy {asked.policy!r}: {unknown(asked.policy, POLICIES)}")
    root, before = asked.root, asked.before
    folders = _inside(root, asked.settings.pipelines_dir), _inside(root, asked.settings.profiles_dir)
    places = (Path(GUARDRAILS_FILE), root / GUARDRAILS_FILE)
    file = asked.policy_file or next((place for place in places if place.is_file()), None)
    guardrails, problems = _guardrails(root, folders[0], file)
    is_removed = file is None and (before / GUARDRAILS_FILE).is_file()
    missing = ""
    if file is None:
        missing = "the change removes the guardrails" if is_removed else "no guardrails"
        asked.say(
            f"warning: {missing}: there is no {GUARDRAILS_FILE} here or at the top, so no figure can fail it"
        )
    # Other guardrails are held against every pipeline.
    is_for_all = _bytes_of(root / guardrails.path) != _bytes_of(before / guardrails.path)
    changes = _changes(asked, folders, is_for_all=is_for_all)
    problems += [problem for each in changes if each.after for problem in each.after.problems]
    problems += [
        Problem(
            f"{rule.measure.value}: pipeline {each.pipeline!r} has no prices; {NEEDS_PRICE}",
            path=guardrails.path,
            line=rule.line,
            column=1,
        )
        for each in changes
        if each.after is not None and each.after.pipeline is not None and each.prices(guardrails) is None
        for rule in guardrails.rules(each.pipeline)
        if rule.measure is Measure.USD_PER_HOUR
    ]
    rates_rps, inputs = _load(asked, file, guardrails)
    if problems:
        return Review(inputs, guardrails, problems=tuple(problems), guardrails_missing=missing)
    changes = [each for each in changes if each.before or each.after]
    reviewed = tuple(
        _reviewed(each, guardrails, folders, asked, rates_rps, f"{at}/{len(changes)} {each.pipeline}")
        for at, each in enumerate(changes, 1)
    )
    return Review(inputs, guardrails, reviewed, guardrails_missing=missing, removes_guardrails=is_removed)


def _inside(root: Path, path: Path) -> str:
    """The path relative to the top of the work tree; UsageError if it is outside, or the top itself."""
    found, root = path.resolve(), root.resolve()
    if found == root or not found.is_relative_to(root):
        raise UsageError(f"{path} is not below {root}, the git work tree that is compared")
    return found.relative_to(root).as_posix()


def _bytes_of(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _guardrails(root: Path, pipelines: str, file: Path | None) -> tuple[Guardrails, list[Problem]]:
    """The rules and the problems of their file, whose path is relative to the work tree if it is inside."""
    if file is None:
        return Guardrails(), []
    try:
        path = _inside(root, file)
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
    names = [each.parent.name for each in sorted((root / pipelines).glob(f"*/{FILE_NAME}"))]
    for name in found.by_pipeline or {}:
        if name not in names:
            words = f"there is no pipeline {name!r}; {unknown(name, names)}"
            document.problem(("pipelines", name), words, at_key=True)
    return replace(found, path=path), [replace(problem, path=path) for problem in document.problems]


def _load(
    asked: ReviewRequest, file: Path | None, guardrails: Guardrails
) -> tuple[tuple[float, ...], ReviewInputs]:
    """The rates by the second, and the inputs as the review prints them."""
    load = asked.load or guardrails.workload or DEFAULT_WORKLOAD
    if asked.load is None and guardrails.trace is not None and file is not None:
        load = trace_in(file.parent, guardrails.trace)
    rates_rps = rates_of(load, None, 1.0)
    if not max(rates_rps) > 0:
        raise InputError(f"the trace {load} has no requests")
    return rates_rps, ReviewInputs(
        version=ipa.__version__,
        base=asked.base,
        commit=asked.commit,
        load=load,
        duration_s=len(rates_rps),
        mean_rps=float(np.mean(rates_rps)),
        peak_rps=max(rates_rps),
        seeds=asked.seeds,
        policy=asked.policy,
    )


def _changes(asked: ReviewRequest, folders: Folders, *, is_for_all: bool) -> list[_Change]:
    """The pipelines with a file that differs from the base; with `is_for_all` every pipeline."""
    there, here = _texts(asked.before, folders), _texts(asked.root, folders)
    return [
        _change(asked, folders, name, there[name], here[name])
        for name in sorted({*there, *here})
        if is_for_all or there[name] != here[name]
    ]


def _texts(root: Path, folders: Folders) -> defaultdict[str, dict[str, bytes]]:
    """The text of each file by its path relative to the root, by the pipeline that it belongs to."""
    found: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for folder, pattern in zip(folders, (FILE_NAME, "*.yaml"), strict=True):
        for path in sorted((root / folder).glob(f"*/{pattern}")):
            if path.is_file():
                found[path.parent.name][path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def _change(
    asked: ReviewRequest, folders: Folders, name: str, there: Mapping[str, bytes], here: Mapping[str, bytes]
) -> _Change:
    path = f"{folders[0]}/{name}/{FILE_NAME}"
    before, note = _read(asked.before, folders, there) if path in there else None, ""
    after: _Files | None = _read(asked.root, folders, here)
    if before is not None and before.problems:
        first = before.problems[0]
        note = f"at the base its files could not be used: {first.path}:{first.line}: {first.message}"
        before = None
    status = Status.CHANGED if path in there else Status.ADDED
    if path not in here:
        # Profiles without a pipeline are only checked.
        status, after = Status.REMOVED, after if after and after.problems else None
    elif there == here:
        status = Status.UNCHANGED
    return _Change(name, path, status, before, after, note)


def _read(root: Path, folders: Folders, paths: Iterable[str]) -> _Files:
    """The files below the root; problems name each file as one of the work tree."""
    checked = check_files([root / path for path in paths], root / folders[0], root / folders[1])
    prefix = f"{root}/"
    problems = {
        replace(it, path=it.path.removeprefix(prefix), message=it.message.replace(prefix, ""))
        for each in checked
        for it in each.problems
    }
    return _Files(
        pipeline=next((each.pipeline for each in checked if each.pipeline is not None), None),
        profiles={each.profile.stage: each.profile for each in checked if each.profile is not None},
        problems=tuple(sorted(problems, key=lambda it: (it.path, it.line, it.column, it.message))),
    )


def _reviewed(
    change: _Change,
    guardrails: Guardrails,
    folders: Folders,
    asked: ReviewRequest,
    rates_rps: tuple[float, ...],
    words: str,
) -> Reviewed:
    prices, rules = change.prices(guardrails), guardrails.rules(change.pipeline)
    after = _evaluate(change.after, asked, rates_rps, prices, f"{words} after")
    is_same = change.status is Status.UNCHANGED
    before = after if is_same else _evaluate(change.before, asked, rates_rps, prices, f"{words} before")
    # The stages whose profiles changed without a new measurement.
    both = change.before and change.after and (change.before.profiles, change.after.profiles)
    unproven = tuple(
        ReviewFinding(None, None, words, path=f"{folders[1]}/{change.pipeline}/{stage}.yaml")
        for stage, words in (unmeasured_changes(*both) if both else ())
    )
    return Reviewed(
        pipeline=change.pipeline,
        path=change.path,
        status=change.status,
        before=before,
        after=after,
        rules=rules,
        is_notable=is_above(guardrails, before, after),
        findings=unproven + findings_of(rules, before, after),
        note=change.note,
    )


def _evaluate(
    files: _Files | None,
    asked: ReviewRequest,
    rates_rps: tuple[float, ...],
    prices: Prices | None,
    words: str,
) -> ReviewSide | None:
    """The evaluation of one side at those prices. It is planned and simulated on its file's target."""
    if files is None or files.pipeline is None:
        return None
    place = asked.place_of(files.pipeline)
    planned = place.shape(files.pipeline, files.profiles)
    rates = {label: max(float(np.quantile(rates_rps, part)), LEAST_RPS) for label, part in QUANTILES}
    # A steady load has one rate: it is planned for once.
    found = {
        rate_rps: plan_pipeline(planned, files.profiles, rate_rps, solver=SOLVER, deadline_s=DEADLINE_S)
        for rate_rps in set(rates.values())
    }
    # Without its time, which differs from machine to machine.
    plans = tuple(
        PlanAt(label, rate_rps, replace(found[rate_rps], solve_s=0.0)) for label, rate_rps in rates.items()
    )
    setup = replace(
        as_served(files.pipeline, files.profiles, rates_rps, asked.settings, place),
        policy=asked.policy,
        solver=SOLVER,
        deadline_s=DEADLINE_S,
    )
    results = []
    for seed in range(asked.seeds):
        asked.say(f"{words}: simulating {len(rates_rps)} s, seed {seed + 1} of {asked.seeds}")
        try:
            results.append(simulate(replace(setup, seed=seed)))
        except InfeasibleError as error:
            return ReviewSide(plans, None, why=error.message)
    return ReviewSide(plans, _figures(results, prices))


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
