"""Calibration at start: profiles of another machine are measured anew, in short, where pipelines run here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from ipa.bootstrap.targets import Target, measurement_bench
from ipa.control.canonical import digest_of
from ipa.control.engine.tick import DecisionInputs, read_inputs
from ipa.control.ports import Clock, DecisionLog
from ipa.model.errors import IpaError, UnavailableError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import UNCALIBRATED, Calibration, StageProfile
from ipa.profiling.measure import Item, MeasurementBench, calibrate, foreign_to, hardware_of
from ipa.service.measuring import bench_workload
from ipa.settings import Settings

log = logging.getLogger("ipa.profiling")

# The time for all pipelines together: the service does not answer before.
BUDGET_S = 20.0
SEED = 0

Profiles = Mapping[str, StageProfile]
Bench = Callable[[Pipeline], AbstractContextManager[MeasurementBench]]


def calibrations_of(
    settings: Settings,
    target: Target,
    pipelines: Mapping[str, Pipeline],
    profiles: Mapping[str, Profiles],
    decisions: DecisionLog,
    clock: Clock,
    bench_of: Bench = measurement_bench,
) -> dict[str, Calibration]:
    """The calibration of each pipeline; UNCALIBRATED where its profiles are of the target's machine.

    Measured where the target runs replicas on this machine, once for the same profiles and machine: a restart
    finds it in the record. Nothing is raised: what cannot be measured is planned as profiled.
    """
    until_s = clock.monotonic_s() + BUDGET_S
    found: dict[str, Calibration] = {}
    for name, pipeline in pipelines.items():
        known = found[name] = unmeasured(target, pipeline, profiles[name])
        if known.machine and not settings.calibrate:
            found[name] = replace(known, detail="not measured here: IPA_CALIBRATE is off")
        elif known.machine:
            foreign = foreign_to(known.machine, _used(pipeline, profiles[name]))
            found[name] = _recorded(decisions, pipeline, profiles[name], known) or _measured(
                settings, pipeline, foreign, known, until_s, clock, bench_of
            )
        if found[name].words:
            log.log(logging.WARNING if known.machine else logging.INFO, "%s: %s", name, found[name].words)
    return found


def unmeasured(target: Target, pipeline: Pipeline, profiles: Profiles) -> Calibration:
    """The machines that the profiles are of, if they are not the target's; nothing measured."""
    machine = target.machine()
    foreign = () if machine is None else foreign_to(machine, _used(pipeline, profiles))
    if not foreign:
        return UNCALIBRATED
    detail = "" if machine else f"not calibrated on {target.title}"
    return Calibration(machine or "", hardware_of(foreign), detail=detail)


def calibrated(profiles: Profiles, calibration: Calibration) -> Profiles:
    """The profiles with the slowdowns of the calibration."""
    return {name: each.slowed(calibration.slowdowns) for name, each in profiles.items()}


def _used(pipeline: Pipeline, profiles: Profiles) -> list[StageProfile]:
    return [profiles[stage.name] for stage in pipeline.served if stage.name in profiles]


def _recorded(
    decisions: DecisionLog, pipeline: Pipeline, profiles: Profiles, wanted: Calibration
) -> Calibration | None:
    """The complete calibration of these profiles on this machine that an earlier process measured."""
    try:
        newest = decisions.decisions(pipeline.name, limit=1)
        before: DecisionInputs | None = read_inputs(newest[0].inputs) if newest else None
    except IpaError as error:
        log.info("no earlier calibration of %s: %s", pipeline.name, error.message)
        return None
    if before is None or before.made_of.profiles != digest_of(profiles):
        return None
    known = before.state.correction.calibration
    is_same = (known.machine, known.profiled_on) == (wanted.machine, wanted.profiled_on)
    return known if is_same and not known.detail else None


def _measured(
    settings: Settings,
    pipeline: Pipeline,
    foreign: Sequence[StageProfile],
    known: Calibration,
    until_s: float,
    clock: Clock,
    bench_of: Bench,
) -> Calibration:
    log.info("%s: %s; measuring", pipeline.name, known.words)
    try:
        items = {profile.stage: _items(settings, pipeline, profile.stage) for profile in foreign}
        with bench_of(pipeline) as bench:
            return calibrate(bench, foreign, items, until_s, clock.monotonic_s)
    except IpaError as error:
        return replace(known, detail=f"not measured here: {error.message}")


def _items(settings: Settings, pipeline: Pipeline, stage: str) -> Sequence[Item]:
    """The requests of the pipeline's bench.py. UnavailableError whatever that raises."""
    try:
        return bench_workload(settings.pipelines_dir, pipeline.name, stage, SEED).items
    except IpaError:
        raise
    except Exception as error:
        raise UnavailableError(f"its bench.py fails: {type(error).__name__}: {error}") from error
