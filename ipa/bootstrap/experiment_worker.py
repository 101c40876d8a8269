"""The process of one experiment: it simulates and answers in lines of JSON (see `service.job_queue`).

    python -m ipa.bootstrap.experiment_worker

Its answers go to the descriptor that was its standard output; what a library prints goes to the log.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from ipa.adapters.processes import asked_by_parent, limit_memory
from ipa.bootstrap.targets import target_named
from ipa.control.engine.guards import GuardSettings
from ipa.control.jobs import LONGEST_S
from ipa.files import pipeline_from_mapping
from ipa.model.errors import IpaError, UsageError
from ipa.model.profile import StageProfile
from ipa.report.run import Run
from ipa.service.experiment_report import (
    Curves,
    PolicyRun,
    curves_of,
    differences,
    result_of,
    run_of,
    run_over,
    seed_of,
    told,
)
from ipa.service.simulation import setup_on
from ipa.simulate.run import ForecastSettings, SimSetup, simulate

# Later than the parent's own limit, so that the parent is the one who says so.
ORPHAN_S = 5.0
_PROFILES = TypeAdapter(list[StageProfile])


def setup_of(spec: Mapping[str, Any]) -> SimSetup:
    """The run that a specification asks for. Errors: those of pipeline files."""
    pipeline = pipeline_from_mapping(spec["pipeline"])
    measured = _PROFILES.validate_python(spec["profiles"])
    setup = setup_on(
        target_named(spec["target"]),
        pipeline,
        {profile.stage: profile for profile in measured},
        tuple(spec["rates_rps"]),
        ForecastSettings(**spec["forecast"]),
        GuardSettings(**spec["guards"]),
    )
    return replace(
        setup,
        policy=spec["policy"],
        objective=spec["objective"],
        seed=spec["seed"],
        spacing=spec["spacing"],
        cluster=replace(
            setup.cluster, capacity_cores=spec["capacity_cores"], capacity=spec["accelerators"] or {}
        ),
    )


def outcome(
    spec: Mapping[str, Any], on_tick: Callable[[float], None]
) -> tuple[dict[str, Any], tuple[PolicyRun, ...]]:
    """The figures of a specification and the runs of its policies, over all seeds.

    The figures are those of the first policy; with several policies `policies` has those of each, and its
    differences to the first. A policy that cannot control the pipeline has a `fault` instead.
    `on_tick` is told how much of all is over. Errors: those of pipeline files and of `simulate`.
    """
    names = spec["policies"]
    runs: dict[str, PolicyRun] = {}
    figures: dict[str, dict[str, Any]] = {}
    faults: dict[str, str] = {}
    for at, name in enumerate(names):

        def on_part(done_ratio: float, before: int = at) -> None:
            on_tick((before + done_ratio) / len(names))

        try:
            figures[name], runs[name] = _one_policy({**spec, "policy": name}, on_part)
        except IpaError as error:
            if len(names) == 1:
                raise
            faults[name] = str(error)
    if not runs:
        raise UsageError(next(iter(faults.values())))
    first = next(iter(runs))
    told_of = [
        {
            "policy": name,
            "result": figures.get(name),
            "difference": differences(runs[name].run, runs[first].run)
            if name in runs and name != first
            else None,
            "fault": faults.get(name),
        }
        for name in names
    ]
    return {**figures[first], **({"policies": told_of} if len(names) > 1 else {})}, tuple(runs.values())


def _one_policy(
    spec: Mapping[str, Any], on_tick: Callable[[float], None]
) -> tuple[dict[str, Any], PolicyRun]:
    """The figures and the run of one policy."""
    setup, repeats = setup_of(spec), spec["repeats"]
    curves: list[Curves] = []

    def one(nth: int) -> tuple[dict[str, Any], Run]:
        # Loop and world of the run before hold each other and a kilobyte for each of its requests.
        gc.collect()
        result = simulate(
            replace(setup, seed=setup.seed + nth), lambda done_ratio: on_tick((nth + done_ratio) / repeats)
        )
        if nth == 0:
            curves.append(curves_of(result, setup.pipeline.sla.percentile))
        return {"policy": result.policy, "duration_s": result.duration_s}, run_of(spec, result)

    about, run = one(0)
    if repeats > 1:
        others = (seed_of(one(nth)[1], setup.seed + nth) for nth in range(1, repeats))
        run = run_over(run, [seed_of(run, setup.seed), *others])
    return {**about, **result_of(run)}, PolicyRun(spec["policy"], run, curves[0])


def answer(spec: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], None]) -> None:
    """Run it, and tell how far it is and what came of it."""
    last = -1

    def on_tick(done_ratio: float) -> None:
        nonlocal last
        percent = min(int(100 * done_ratio), 99)
        if percent > last:
            last = percent
            tell({"percent": percent})

    try:
        figures, runs = outcome(spec, on_tick)
    except IpaError as error:
        tell({"fault": {"code": error.code, "detail": str(error), "hint": error.hint}})
        return
    except Exception as error:
        tell({"fault": {"code": "internal", "detail": f"{type(error).__name__}: {error}", "hint": ""}})
        raise
    tell({"result": figures, "report": told(runs)})


def main() -> None:
    """Answer the one specification of the standard input; end with the input."""
    # The parent ends it by then, unless that was killed itself.
    spec, tell = asked_by_parent(LONGEST_S + ORPHAN_S)
    most_mb = spec["memory_mb"]

    def refuse() -> None:
        said = (
            f"it took more than {most_mb:g} MB of memory and was ended: too many requests, or too many wait"
        )
        hint = "Ask for less: fewer minutes or times. IPA_EXPERIMENT_MEMORY_MB says how much there is."
        tell({"fault": {"code": "http.too_large", "detail": said, "hint": hint}})

    limit_memory(most_mb, refuse)
    answer(spec, tell)


if __name__ == "__main__":
    main()
