"""Cells of the simulator: a policy controls a pipeline under a load, for one seed."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import product
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from ipa.control.canonical import plain
from ipa.control.engine.guards import GuardSettings
from ipa.experiment.cells import CellOutcome, ExperimentCell, Labels, as_series, code_of
from ipa.experiment.loads import data_folder, pipeline_of, rates_of, sla_of, with_sla
from ipa.experiment.runners import AUTHORS, Experiment, PipelineArm, WorkloadArm
from ipa.files import pipeline_from_mapping, pipeline_to_mapping
from ipa.forecast.arrivals import workload_rates
from ipa.forecast.base import slo_quantile
from ipa.forecast.registry import FORECASTERS
from ipa.model.errors import InfeasibleError, IpaError, Problem, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.policies.registry import POLICIES
from ipa.policies.table import PolicyInputs
from ipa.settings import PREFIX, SETTINGS, Settings, variable_of
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.registry import worlds_in
from ipa.simulate.run import (
    ForecastSettings,
    SimResult,
    SimSetup,
    first_configs,
    forecaster_of,
    policy_of,
    simulate,
)

# Policies that run in the service's own loop, which reads the load between ticks.
OWN = ("ours", "ours-frugal")
# Policies whose authors plan for a point forecast, not for an upper quantile.
POINT, POINT_QUANTILE = ("ipa", "ipa-artifact", "fa2-low", "fa2-high", "rim", "infadapter", "ms+"), 0.5
# Settings of the service that an experiment may vary, by environment variable; its `interval` is the tick.
OF_FORECAST, QUANTILE = ("window_s", "horizon_s", "smooth_s"), "forecast_quantile"
OF_LOOP = (*OF_FORECAST, QUANTILE, *(each.name for each in fields(GuardSettings) if each.name != "tick_s"))
VARIED = {variable_of(each.name): each.name for each in SETTINGS if each.name in OF_LOOP}
# How many times the SLA a start may take if nothing keeps it.
LOOSER = (1.0, 2.0, 4.0, 16.0)
_PROFILES = TypeAdapter(list[StageProfile])
Profiles = Mapping[str, StageProfile]


def cells(experiment: Experiment) -> tuple[list[ExperimentCell], list[str]]:
    """Every cell of the experiment in a fixed order, and notes on what is left out."""
    notes: list[str] = []
    loads = [
        (arm.name, by_seed)
        for arm in experiment.workloads
        if (by_seed := _loads(arm, experiment, notes)) is not None
    ]
    made = []
    for arm in experiment.pipelines:
        pipeline, profiles = pipeline_of(arm, experiment.pipelines_dir, experiment.profiles_dir)
        made += cells_of(experiment, arm, pipeline, profiles, loads)
    return made, notes


def cells_of(
    experiment: Experiment,
    arm: PipelineArm,
    pipeline: Pipeline,
    profiles: Profiles,
    loads: Sequence[tuple[str, Mapping[int, array[float]]]],
) -> list[ExperimentCell]:
    """The cells of one pipeline: every load, SLA, world, forecaster, policy, setting and seed.

    `loads` are named rates by the second for each seed.
    """
    inputs = {
        "pipeline": pipeline_to_mapping(pipeline),
        "profiles": plain(list(profiles.values())),
        "spacing": experiment.spacing,
    }
    slas = [(text, sla_of(text, pipeline, profiles)) for text in experiment.slas]
    values = [
        [(name, setting_of(name, it)) for it in listed(each)] for name, each in experiment.settings.items()
    ]
    settings = [dict(each) for each in product(*values)]
    arms = (experiment.worlds, experiment.forecasters, experiment.policies, settings, experiment.seeds)
    made = []
    for (workload, by_seed), (sla, sla_s), world, forecaster, policy, given, seed in product(
        loads, slas, *arms
    ):
        varied = {VARIED[variable]: value for variable, value in given.items()}
        forecast = _forecast_of(forecaster, policy, varied, pipeline)
        arm_values: dict[str, str | int | float] = {
            "sla_s": sla_s,
            "world": world,
            "forecaster": forecast.name,
            "policy": policy,
            "seed": seed,
        }
        plugins = [POLICIES.find(policy), FORECASTERS.find(forecast.name)]
        plugins += [plugin for plugin, *_ in worlds_in(world)]
        code = [digest for plugin in plugins if (digest := code_of(plugin))]
        loop = {
            "forecast": asdict(forecast),
            "guards": asdict(_guards_of(experiment.interval_s, policy, varied)),
        }
        payload = {**inputs, **arm_values, **loop, **({"code": code} if code else {})}
        case = {"pipeline": arm.name, "workload": workload, "sla": sla}
        labels: Labels = {**case, **arm_values, "forecaster": forecaster, **given}
        series = {"rates_rps": by_seed[seed]}
        weight = len(by_seed[seed]) / 60
        made.append(ExperimentCell(labels, "simulate", payload, series, weight))
    _check_policies(made)
    return made


def listed(values: Any) -> list[Any]:
    """The values of a setting in an experiment, where one value needs no list."""
    return list(values) if isinstance(values, list | tuple) else [values]


def setting_of(variable: str, value: Any) -> Any:
    """The setting's value, as the service reads it. ConfigurationError if it cannot have it."""
    return getattr(Settings.from_env({variable: str(value)}), variable.removeprefix(PREFIX).lower())


def _forecast_of(
    forecaster: str, policy: str, values: Mapping[str, Any], pipeline: Pipeline
) -> ForecastSettings:
    """The named forecaster with settings; for AUTHORS the ladder with what the policy's authors plan for."""
    own = {name: values[name] for name in OF_FORECAST if name in values}
    if QUANTILE in values:
        own["quantile"] = slo_quantile(values[QUANTILE], pipeline.sla.percentile)
    if forecaster != AUTHORS:
        return ForecastSettings(forecaster, **own)
    return ForecastSettings(**{**own, "quantile": POINT_QUANTILE} if policy in POINT else own)


def _guards_of(interval_s: float, policy: str, values: Mapping[str, Any]) -> GuardSettings:
    """The loop's settings: only policies of the service's own loop read the load between ticks."""
    own = {each.name: values[each.name] for each in fields(GuardSettings) if each.name in values}
    guards = GuardSettings(**{"tick_s": interval_s, "peek_s": Settings().peek_s, **own})
    return guards if policy in OWN else replace(guards, peek_s=0.0)


def _check_policies(cells: Sequence[ExperimentCell]) -> None:
    """UsageError lists the policies and forecasters that cannot be made for the pipeline of these cells."""
    problems = {}
    for cell in cells:
        names = ", ".join(str(cell.labels[key]) for key in ("policy", "forecaster", "pipeline"))
        if names not in problems:
            try:
                setup = _unstarted(cell.payload, cell.series)
                policy_of(setup)
                forecaster_of(setup.forecast, setup.rates_rps, lambda: 0.0)
                problems[names] = ""
            except IpaError as error:
                problems[names] = f"{names}: {error}"
    faults = [Problem(words) for words in problems.values() if words]
    if faults:
        raise UsageError(
            "not every policy can control every pipeline; nothing was computed",
            problems=faults,
            hint="Leave these policies out, or compare them on other pipelines.",
        )


def _loads(arm: WorkloadArm, experiment: Experiment, notes: list[str]) -> dict[int, array[float]] | None:
    """The rates by the second for each seed; None with a note if published data is missing.

    A load that is shorter than the experiment begins again.
    """
    if arm.like is not None:
        own = {seed: workload_rates(arm.like, seed=seed) for seed in experiment.seeds}
        rates = {seed: [float(rate) * arm.scale for rate in each] for seed, each in own.items()}
    else:
        folder = data_folder()
        read = rates_of(arm, folder)
        if read is None:
            notes.append(f"Workload {arm.name} is left out: {folder / str(arm.shared)} is not there.")
            return None
        rates = dict.fromkeys(experiment.seeds, read)
    if (minutes := experiment.minutes) is not None:
        seconds = range(max(1, round(minutes * 60)))
        rates = {seed: [each[at % len(each)] for at in seconds] for seed, each in rates.items()}
    return {seed: as_series(each) for seed, each in rates.items()}


def work(payload: Mapping[str, Any], series: Mapping[str, array[float]]) -> CellOutcome:
    """The cell's figures as a row, and its ticks."""
    setup = setup_of(payload, series)
    result = simulate(setup)
    row = result.summary()
    del row["decisions_by_reason"]
    # Requests before the first tick count with the first interval.
    edges_s = [tick.at_s for tick in result.ticks[1:]]
    by_interval = _by_interval(result, edges_s, setup.pipeline.sla.percentile)
    return CellOutcome(row, {**result.columns(), **by_interval})


def _by_interval(result: SimResult, edges_s: Sequence[float], percentile: float) -> dict[str, list[Any]]:
    """For the requests that arrive between each time and the next: number, attainment and latency."""
    place = np.searchsorted(edges_s, result.born_s, side="right")
    latencies = result.done_s - result.born_s
    columns: dict[str, list[Any]] = {"sent": [], "attained_ratio": [], "request_latency_s": []}
    for at in range(len(edges_s) + 1):
        own = latencies[place == at]
        answered = own[~np.isnan(own)]
        columns["sent"].append(len(own))
        columns["attained_ratio"].append(
            float((answered <= result.sla_s).sum() / len(own)) if len(own) else None
        )
        latency_s = float(np.quantile(answered, percentile / 100)) if len(answered) else None
        columns["request_latency_s"].append(latency_s)
    return columns


def setup_of(payload: Mapping[str, Any], series: Mapping[str, array[float]]) -> SimSetup:
    """The simulator's inputs, with the first configuration."""
    return started(_unstarted(payload, series))


def started(setup: SimSetup) -> SimSetup:
    """The setup with its first configuration; if no plan meets the SLA, that is a plan for a longer SLA."""
    for looser in LOOSER:
        eased = replace(setup, pipeline=with_sla(setup.pipeline, setup.pipeline.sla.latency_s * looser))
        try:
            return replace(setup, start=first_configs(eased, PolicyInputs(eased.pipeline, setup.profiles)))
        except InfeasibleError:
            continue
    return setup


def _unstarted(payload: Mapping[str, Any], series: Mapping[str, array[float]]) -> SimSetup:
    """The inputs of the simulator without the first configuration."""
    measured = _PROFILES.validate_python(payload["profiles"])
    guards = GuardSettings(**payload["guards"])
    FORECASTERS.admit(payload["forecaster"])
    return SimSetup(
        pipeline=with_sla(pipeline_from_mapping(payload["pipeline"]), payload["sla_s"]),
        profiles={each.stage: each for each in measured},
        rates_rps=tuple(series["rates_rps"]),
        policy=POLICIES.admit(payload["policy"]),
        seed=payload["seed"],
        spacing=payload["spacing"],
        forecast=ForecastSettings(**payload["forecast"]),
        guards=guards,
        metrics=MetricsSettings(stale_after_s=guards.stale_after_s),
        world=payload["world"],
    )
