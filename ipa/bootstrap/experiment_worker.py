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
from ipa.experiment.cells import Finished
from ipa.files import pipeline_from_mapping
from ipa.model.errors import IpaError
from ipa.model.profile import StageProfile
from ipa.service.experiment_report import (
    Curves,
    ExperimentReport,
    differences_by_name,
    plain_report,
    report_of,
    results_of,
    run_of,
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
        objective=spec["objective"],
        seed=spec["seed"],
        spacing=spec["spacing"],
        cluster=replace(
            setup.cluster, capacity_cores=spec["capacity_cores"], capacity=spec["accelerators"] or {}
        ),
    )


def outcome(
    spec: Mapping[str, Any], on_tick: Callable[[float], None]
) -> tuple[dict[str, Any], ExperimentReport]:
    """The figures of a specification, over all seeds, and its report.

    The figures are those of the first policy; with several policies `policies` has those of each, and its
    differences to the first. A policy that cannot control the pipeline has a `fault` instead.
    `on_tick` is told how much of all is over. Errors: those of pipeline files and of `simulate`.
    """
    names, repeats = spec["policies"], spec["repeats"]
    setup = setup_of(spec)
    runs: list[tuple[Finished, Curves]] = []
    faults: dict[str, IpaError] = {}

    def run(at: int, nth: int) -> tuple[Finished, Curves]:
        # Loop and world of the run before hold each other and a kilobyte for each of its requests.
        gc.collect()
        result = simulate(
            replace(setup, policy=names[at], seed=setup.seed + nth),
            lambda done_ratio: on_tick((at + (nth + done_ratio) / repeats) / len(names)),
        )
        return run_of(spec, names[at], result, setup.pipeline.sla.percentile)

    for at, name in enumerate(names):
        try:
            runs += [run(at, nth) for nth in range(repeats)]
        except IpaError as error:
            # Without the frames, which hold all requests of the run.
            faults[name] = error.with_traceback(None)
    if not runs:
        raise next(iter(faults.values()))
    report = report_of(spec, runs)
    results, changes = results_of(report), differences_by_name(report)
    duration_s = float(len(spec["rates_rps"]))
    told_of = [
        {
            "policy": name,
            "result": {"policy": name, "duration_s": duration_s, **results[name]}
            if name in results
            else None,
            "difference": changes.get(name),
            "fault": str(faults[name]) if name in faults else None,
        }
        for name in names
    ]
    first = next(each["result"] for each in told_of if each["result"])
    return {**first, **({"policies": told_of} if len(names) > 1 else {})}, report


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
        figures, report = outcome(spec, on_tick)
    except IpaError as error:
        tell({"fault": {"code": error.code, "detail": str(error), "hint": error.hint}})
        return
    except Exception as error:
        tell({"fault": {"code": "internal", "detail": f"{type(error).__name__}: {error}", "hint": ""}})
        raise
    tell({"result": figures, "report": plain_report(report)})


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
