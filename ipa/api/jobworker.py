"""The process of one experiment: what `ipa simulate` does, told as lines of JSON (see `jobs.JobDesk`).

    python -m ipa.api.jobworker

Its answers go to the descriptor that was its standard output; what a library prints goes to the log.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import IO, Any

from pydantic import TypeAdapter

from ipa.adapters.files import pipeline_from_mapping
from ipa.api.ran import run_of, told
from ipa.control.guards import GuardSettings
from ipa.model.errors import IpaError
from ipa.model.pipeline import at_cluster
from ipa.model.profile import StageProfile
from ipa.simulate.cluster import KUBERNETES, ClusterSettings
from ipa.simulate.metrics import ON_CLUSTER, MetricsSettings
from ipa.simulate.run import ForecastSettings, SimSetup, simulate

# Nothing here is as urgent as a tick.
NICENESS = 10
_PROFILES = TypeAdapter(list[StageProfile])


def setup_of(spec: Mapping[str, Any]) -> SimSetup:
    """The run that a specification (`experiments.spec_of`) asks for. Errors: those of pipeline files."""
    pipeline = pipeline_from_mapping(spec["pipeline"])
    profiles = _PROFILES.validate_python(spec["profiles"])
    is_cluster = spec["target"] == "kubernetes"
    metrics = ON_CLUSTER if is_cluster else MetricsSettings()
    cluster = KUBERNETES if is_cluster else ClusterSettings()
    return SimSetup(
        at_cluster(pipeline) if is_cluster else pipeline,
        {profile.stage: profile for profile in profiles},
        tuple(spec["rates_rps"]),
        policy=spec["policy"],
        objective=spec["objective"],
        seed=spec["seed"],
        spacing=spec["spacing"],
        forecast=ForecastSettings(**spec["forecast"]),
        guards=GuardSettings(**spec["guards"]),
        cluster=replace(cluster, capacity_cores=spec["capacity_cores"]),
        metrics=replace(metrics, stale_after_s=spec["guards"]["stale_after_s"]),
    )


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
        result = simulate(setup_of(spec), on_tick)
    except IpaError as error:
        tell({"fault": {"code": error.code, "detail": str(error), "hint": error.hint}})
        return
    except Exception as error:
        tell({"fault": {"code": "internal", "detail": f"{type(error).__name__}: {error}", "hint": ""}})
        raise
    figures = {"policy": result.policy, "duration_s": result.duration_s, **result.summary()}
    tell({"result": figures, "report": told(run_of(spec, result))})


def main() -> None:
    """Answer the one specification of the standard input; end with the input."""
    os.nice(NICENESS)
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    spec = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(sys.stdin,), daemon=True).start()

    def tell(said: Mapping[str, Any]) -> None:
        sink.write(json.dumps(said) + "\n")
        sink.flush()

    answer(spec, tell)


def _end_with(source: IO[str]) -> None:
    """Whoever asked holds it open; once it is gone nobody waits for an answer."""
    source.read()
    os._exit(1)


if __name__ == "__main__":
    main()
