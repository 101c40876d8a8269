"""The review of `ipa ci`: the changed pipelines, evaluated on both sides and against guardrails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

import ipa
from ipa.files.document import unknown
from ipa.files.guardrails import NEEDS_PRICE, read_guardrails
from ipa.model.errors import InputError, Problem, UsageError
from ipa.model.guardrails import Guardrails, Measure
from ipa.model.pipeline import Pipeline
from ipa.model.resources import CORES, Prices
from ipa.policies.registry import POLICIES
from ipa.report.review.result import Review, Reviewed, ReviewInputs, ReviewSide, findings_of, notable
from ipa.service.review.evaluate import ReviewTrial, tried
from ipa.service.review.revisions import BaseRevision, Files, Folders, Pair, folders_of, inside, pairs_of
from ipa.service.simulation import SimulatedPlace, rates_of
from ipa.settings import Settings

DEFAULT_WORKLOAD = "bursty"

Say = Callable[[str], None]


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
    guardrails, problems = _guardrails(base, folders, asked.policy_file)
    pairs = pairs_of(base, folders, all_of_them=guardrails.path in base.changed())
    problems += [problem for pair in pairs if pair.after for problem in pair.after.problems]
    problems += _unpriced(pairs, guardrails)
    rates_rps, inputs = _load(asked, base, guardrails)
    if problems:
        return Review(inputs, guardrails, problems=tuple(problems))
    trial = ReviewTrial(rates_rps, asked.seeds, asked.policy, settings, say, place_of)
    pairs = [pair for pair in pairs if pair.before or pair.after]
    return Review(
        inputs,
        guardrails,
        tuple(
            _reviewed(pair, guardrails, trial, f"{at}/{len(pairs)} {pair.pipeline}")
            for at, pair in enumerate(pairs, 1)
        ),
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
        found, document = read_guardrails(file)
    except InputError as error:
        problems = error.problems or [Problem(error.message)]
        return Guardrails(path=path), [replace(problem, path=path) for problem in problems]
    if found.trace is not None and not (file.parent / found.trace).is_file():
        document.problem(("trace",), f"there is no file {file.parent / found.trace}")
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
        load = str(asked.policy_file.parent / guardrails.trace)
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
        guardrails_sha256=_sha256(asked.policy_file),
        duration_s=len(rates_rps),
        mean_rps=float(np.mean(rates_rps)),
        peak_rps=max(rates_rps),
        seeds=asked.seeds,
        policy=asked.policy,
    )


def _sha256(file: Path | None) -> str:
    return "" if file is None else sha256(file.read_bytes()).hexdigest()


def _reviewed(pair: Pair, guardrails: Guardrails, trial: ReviewTrial, words: str) -> Reviewed:
    prices = _prices(pair, guardrails)
    after = _tried(pair.after, trial, prices, f"{words} after")
    before = after if pair.is_same else _tried(pair.before, trial, prices, f"{words} before")
    rules = guardrails.rules(pair.pipeline)
    return Reviewed(
        pipeline=pair.pipeline,
        path=pair.path,
        status=pair.status,
        before=before,
        after=after,
        files=pair.files,
        rules=rules,
        is_notable=notable(guardrails, pair.status, before, after),
        findings=findings_of(rules, before, after),
        note=pair.note,
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


def _unpriced(pairs: Sequence[Pair], guardrails: Guardrails) -> list[Problem]:
    """The rules about money for pipelines that have no price."""
    return [
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


def _tried(files: Files | None, trial: ReviewTrial, prices: Prices | None, words: str) -> ReviewSide | None:
    if files is None or files.pipeline is None:
        return None
    return tried(files.pipeline, files.profiles, trial, prices, words)
