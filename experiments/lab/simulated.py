"""Runs of the simulator: a policy keeps a pipeline under a load, for a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.lab.experiment import Experiment, PipelineArm
from experiments.lab.files import ROOT
from experiments.lab.loads import pipeline_of, rates_of, sla_of, with_sla
from experiments.lab.units import Outcome, Unit
from ipa.model.errors import InfeasibleError

if TYPE_CHECKING:
    from ipa.model.pipeline import Pipeline
    from ipa.model.profile import StageProfile
    from ipa.policies.base import Policy
    from ipa.simulate.run import SimSetup

# Tables of ticks are kept of one seed only: they are for looking at.
TICKS_OF = 1
# Policies whose rule is about the measured throughput, not about service times.
AS_MEASURED = ("infadapter", "ms+")
# Those that run in the service's own loop.
OWN = ("ours", "ours-checked", "ours-frugal")
# How many times the SLA a start may take where nothing keeps it.
LOOSER = (1.0, 2.0, 4.0, 16.0)


def units(experiment: Experiment, data: Path, root: Path = ROOT) -> tuple[list[Unit], list[str]]:
    """Every run of the experiment in a fixed order, and what is left out and why."""
    notes: list[str] = []
    loads: list[tuple[str, dict[str, Any]]] = []
    for workload_arm in experiment.workloads:
        name = workload_arm.name
        if workload_arm.like is not None:
            loads.append((name, {"like": workload_arm.like, "scale": workload_arm.scale}))
            continue
        rates = rates_of(workload_arm, data)
        if rates is None:
            notes.append(f"Workload {name} is left out: {data / str(workload_arm.shared)} is not there.")
        else:
            loads.append((name, {"rates": rates}))
    found = []
    for arm in experiment.pipelines:
        pipeline, profiles = pipeline_of(arm, root)
        slas = [(text, sla_of(text, pipeline, profiles)) for text in experiment.slas]
        arms = product(loads, slas, experiment.forecasters, experiment.policies, enumerate(experiment.seeds))
        for (workload, load), (sla, sla_s), forecaster, policy, (number, seed) in arms:
            labels = {
                "pipeline": arm.name,
                "workload": workload,
                "sla": sla,
                "sla_s": sla_s,
                "forecaster": forecaster,
                "policy": policy,
                "seed": seed,
            }
            payload = {
                "pipeline": _plain(arm),
                "load": load,
                "sla_s": sla_s,
                "forecaster": forecaster,
                "policy": policy,
                "seed": seed,
                "minutes": experiment.minutes,
                "spacing": experiment.spacing,
                "interval_s": experiment.interval_s,
                "ticks": number < TICKS_OF,
            }
            found.append(Unit(labels, payload, weight=experiment.minutes))
    return found, notes


def _plain(arm: PipelineArm) -> dict[str, Any]:
    """The arm as JSON has it."""
    given = {it.name: getattr(arm, it.name) for it in fields(arm)}
    fan_out = {stage: dict(it) if isinstance(it, Mapping) else it for stage, it in arm.fan_out.items()}
    return given | {"fan_out": fan_out}


def load_of(payload: Mapping[str, Any]) -> Sequence[float]:
    """The rates of a run by the second, as long as it lasts: a load that is shorter begins again."""
    from ipa.simulate.arrivals import workload_rates

    load, seconds = payload["load"], max(1, round(payload["minutes"] * 60))
    rates = load.get("rates")
    if rates is None:
        made = workload_rates(load["like"], seed=payload["seed"])
        rates = [float(rate) * load["scale"] for rate in made]
    return [rates[at % len(rates)] for at in range(seconds)]


def work(payload: Mapping[str, Any]) -> Outcome:
    """The run: its summary as a row, and its ticks where they are kept."""
    from ipa.simulate.run import simulate

    result = simulate(setup_of(payload))
    row = {key: value for key, value in result.summary().items() if not isinstance(value, dict)}
    return Outcome(row, result.columns() if payload["ticks"] else {})


def setup_of(payload: Mapping[str, Any]) -> SimSetup:
    """All that the simulator is told. Where nothing keeps the SLA at first, the start takes more."""
    from ipa.control.engine.guards import GuardSettings
    from ipa.forecast.registry import FORECASTERS
    from ipa.policies.table import PolicyInputs
    from ipa.simulate.run import ForecastSettings, SimSetup, first_configs

    arm = PipelineArm(**payload["pipeline"])
    own, profiles = pipeline_of(arm, ROOT)
    pipeline = with_sla(own, payload["sla_s"])
    setup = SimSetup(
        pipeline=pipeline,
        profiles=profiles,
        rates_rps=tuple(load_of(payload)),
        policy=_policy(payload["policy"], arm, pipeline, profiles),
        seed=payload["seed"],
        spacing=payload["spacing"],
        forecast=ForecastSettings(FORECASTERS.admit(payload["forecaster"])),
        guards=GuardSettings(tick_s=payload["interval_s"], peek_s=_peek_s(payload["policy"])),
    )
    for looser in LOOSER:
        eased = replace(setup, pipeline=with_sla(own, payload["sla_s"] * looser))
        try:
            return replace(setup, start=first_configs(eased, PolicyInputs(eased.pipeline, profiles)))
        except InfeasibleError:
            continue
    return setup


def _peek_s(policy: str) -> float:
    """How often the loop looks at the load between ticks: as the service does; the papers' loops do not."""
    from ipa.settings import Settings

    return Settings().peek_s if policy in OWN else 0.0


def _policy(
    name: str, arm: PipelineArm, pipeline: Pipeline, profiles: Mapping[str, StageProfile]
) -> str | Policy:
    """The policy by name; those that plan with capacities as they were measured are given these."""
    from ipa.policies.registry import POLICIES
    from ipa.policies.table import PolicyInputs, make_policy

    POLICIES.admit(name)
    if arm.capacity_within_s is None or name not in AS_MEASURED:
        return name
    measured = pipeline_of(replace(arm, capacity_within_s=None), ROOT)[1]
    return make_policy(name, PolicyInputs(pipeline, measured))
