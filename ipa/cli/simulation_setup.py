"""A simulation as the command line asks for it."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa.cli.progress import progress
from ipa.model.errors import InputError, NotFoundError, UsageError

if TYPE_CHECKING:
    from ipa.control.engine.guards import GuardSettings
    from ipa.model.pipeline import Pipeline
    from ipa.model.profile import StageProfile
    from ipa.settings import Settings
    from ipa.simulate.result import SimResult
    from ipa.simulate.run import SimSetup


# A request takes some 100 bytes while it is simulated.
MOST_REQUESTS = 2e7


def over_all(setup: SimSetup, repeats: int) -> tuple[SimResult, dict[str, Any]]:
    """The run of the first seed, and the figures: those of that run, or their means and `intervals`."""
    from ipa.report.seeds import over_seeds
    from ipa.simulate.run import simulate as run

    words, total = f"simulating {len(setup.rates_rps) / 60:g} min", repeats if repeats > 1 else None
    with progress(words, total) as step:

        def another(nth: int) -> dict[str, Any]:
            # By itself and after those before are gone: each holds all of its requests.
            gc.collect()
            step(f"seed {setup.seed + nth}")
            return run(replace(setup, seed=setup.seed + nth)).summary()

        first = run(setup)
        if repeats == 1:
            return first, first.summary()
        return first, over_seeds([first.summary(), *map(another, range(1, repeats))])


def as_served(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    rates_rps: tuple[float, ...],
    given: Settings,
    target: str,
) -> SimSetup:
    """A run of the loop with the service's settings on the target of that name."""
    from ipa.bootstrap.targets import target_named
    from ipa.simulate.run import ForecastSettings, SimSetup

    place = target_named(target)
    cluster, metrics = place.simulation(pipeline)
    return SimSetup(
        place.shape(pipeline, profiles),
        profiles,
        rates_rps,
        forecast=ForecastSettings(
            window_s=given.window_s,
            horizon_s=given.horizon_s,
            quantile=given.forecast_quantile,
            smooth_s=given.smooth_s,
        ),
        guards=guards_of(given),
        cluster=cluster,
        metrics=replace(metrics, stale_after_s=given.stale_after_s),
    )


def rates_of(workload: str, minutes: float | None, times: float) -> tuple[float, ...]:
    """The rates by the second of a named workload or of a trace file; UsageError where none are left."""
    from ipa.files.reading import is_file
    from ipa.files.traces import read_trace
    from ipa.simulate.arrivals import WORKLOADS, workload_rates

    if workload in WORKLOADS:
        rates = tuple(float(rate) for rate in workload_rates(workload))
    elif is_file(Path(workload)):
        rates = tuple(rate or 0.0 for rate in read_trace(Path(workload), zeros_are_gaps=False))
    else:
        known = ", ".join(WORKLOADS)
        raise NotFoundError(
            f"there is no workload and no file {workload!r}", hint=f"Give a file, or one of: {known}"
        )
    if minutes is not None:
        rates = rates[: max(round(60 * minutes), 0)]
    if not rates:
        raise UsageError(f"nothing of the workload {workload!r} is left to simulate")
    scaled = tuple(times * rate for rate in rates)
    if sum(scaled) > MOST_REQUESTS:
        raise UsageError(
            f"--times {times:g} makes {sum(scaled):.3g} requests of the workload; at most {MOST_REQUESTS:g} "
            "are simulated",
            hint="Take a smaller factor, or fewer --minutes.",
        )
    return scaled


def guards_of(given: Settings) -> GuardSettings:
    """The loop's settings as the service has them."""
    from ipa.control.engine.guards import GuardSettings

    named = {field.name for field in fields(given)}
    return GuardSettings(
        **{field.name: getattr(given, field.name) for field in fields(GuardSettings) if field.name in named}
    )


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object in the file; NotFoundError, or InputError where it is none."""
    from ipa.files.reading import read_json

    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(
            f"{path} holds no JSON object", hint="Give one `settings` object of the published runs."
        )
    return found
