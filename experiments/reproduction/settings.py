"""A published run of IPA as planner settings, so that it can be repeated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from experiments.published.data import TICK_S, objective_of
from ipa.model.errors import InputError
from ipa.model.errors import Problem as Fault
from ipa.model.pipeline import Objective, Pin, Pipeline, Stage
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.optimize.problem import Compat
from ipa.policies.base import Policy
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.profiling.points import Allocation, stage_sla_s
from ipa.simulate.run import SimSetup

# `scale` pins the variants (FA2), `switch` the replicas (RIM); null is IPA.
MODES = (None, "scale", "switch")
NUMBERS = {
    "alpha": "the weight of accuracy",
    "beta": "the weight of a core",
    "gamma": "the weight of a batch size",
    "threshold": "requests per second that one replica must carry in base allocation",
    "batching_cap": "the largest batch size",
    "scaling_cap": "the most replicas of a stage",
    "latency_margin": "percent added to measured latencies",
    "throughput_margin": "percent added to measured throughputs",
}
OPTIONAL_NUMBERS = {
    "lowest_model_accuracy": "the least rank of a variant",
    "predictor_margin": "percent added to the forecast",
    "sla_solver_s": "the SLA in seconds",
    "sla_s": "the SLA in seconds",
    "drop_limit": "seconds after which a request is dropped",
    "drop_limit_s": "seconds after which a request is dropped",
    "adaptation_interval": "seconds from decision to decision",
}
LISTS = ("initial_active_model", "initial_replica", "initial_cpu_allocation")
CHOICES: Mapping[str, tuple[object, ...]] = {
    "normalize_accuracy": (True, False),
    "accuracy_method": ("sum", "multiply"),
    "baseline_mode": MODES,
    "predictor_type": ("lstm", "reactive"),
}
# Settings in the authors' files that are computed here from the profiles, or do not affect a plan.
REMARKS = frozenset(
    {
        "sla_factor",
        "profiling_series",
        "monitoring_duration",
        "stage_sla_s",
        "sla_in_paper_cdf_figure_s",
        "base_allocation",
    }
)
NEEDED = (*NUMBERS, "normalize_accuracy", "accuracy_method")
KNOWN = {*NUMBERS, *OPTIONAL_NUMBERS, *LISTS, *CHOICES, *REMARKS, "profiling_load"}


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """A published run in the planner's terms.

    `pipeline` has the run's weights, SLA and limits as its default objective, the run's pins as pins of its
    stages, and its drop limit. It is planned with `compat` and `allocation` for the forecast times 1 +
    `margin_ratio`, every `interval_s`. `starting` is the first configuration: empty if the file has none,
    batches of one if it does.
    """

    pipeline: Pipeline
    margin_ratio: float = 0.0
    starting: tuple[StageConfig, ...] = ()
    interval_s: float = float(TICK_S)
    compat: Compat = Compat.IPA_ARTIFACT
    allocation: Allocation = Allocation.BASE

    @property
    def objective(self) -> Objective:
        """The run's weights and limits."""
        return self.pipeline.objective()


def settings_of(
    settings: Mapping[str, Any], pipeline: Pipeline, profiles: Mapping[str, StageProfile]
) -> PublishedRun:
    """The run described by a `settings` object of the published data, for that pipeline.

    Without an SLA in it (`sla_s` or `sla_solver_s`) the SLA is the released rule's, 25 × the mean latency of
    a batch of one, summed over the stages. Without a drop limit the pipeline's own holds. Errors: InputError
    lists every key that is missing, unknown or invalid.
    """
    faults = [*_faults(settings), *_faults_of_stages(settings, pipeline, profiles)]
    if faults:
        raise InputError(
            f"these settings are no run of pipeline {pipeline.name!r}",
            problems=[Fault(fault) for fault in faults],
            hint="Give a `settings` object as published with the runs of IPA.",
        )
    objective = objective_of(settings, settings.get("sla_s") or settings.get("sla_solver_s"))
    if objective.sla_s is None:
        sla_s = sum(stage_sla_s(profiles[stage.name], objective) for stage in pipeline.served)
        objective = replace(objective, sla_s=sla_s)
    drop_after_s = settings.get("drop_limit_s") or settings.get("drop_limit") or pipeline.drop_after_s
    return PublishedRun(
        pipeline=replace(
            pipeline,
            stages=_pinned(settings, pipeline.stages),
            objectives={objective.name: objective},
            default_objective=objective.name,
            drop_after_s=drop_after_s,
        ),
        margin_ratio=(settings.get("predictor_margin") or 0.0) / 100,
        starting=_starting(settings, pipeline.stages),
        interval_s=float(settings.get("adaptation_interval") or TICK_S),
    )


def _pinned(settings: Mapping[str, Any], stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages with the pins of a rival's run."""
    mode = settings.get("baseline_mode")
    if mode is None:
        return tuple(stages)
    if mode == "scale":
        pins = [Pin(variant=name) for name in settings["initial_active_model"]]
    else:
        pins = [Pin(replicas=count) for count in settings["initial_replica"]]
    return tuple(replace(stage, pin=pin) for stage, pin in zip(stages, pins, strict=True))


def _starting(settings: Mapping[str, Any], stages: Sequence[Stage]) -> tuple[StageConfig, ...]:
    if not all(name in settings for name in LISTS):
        return ()
    columns = (settings[name] for name in LISTS)
    return tuple(
        StageConfig(stage.name, variant, 1, float(cores), replicas)
        for stage, variant, replicas, cores in zip(stages, *columns, strict=True)
    )


def _faults(settings: Mapping[str, Any]) -> Iterator[str]:
    """Faults in the values, whatever the pipeline."""
    unknown = sorted(str(key) for key in settings if key not in KNOWN)
    if unknown:
        yield f"there is no setting {', '.join(unknown)}; remove it"
    missing = [name for name in NEEDED if name not in settings]
    if missing:
        yield f"{', '.join(missing)} must be given"
    for name, meaning in {**NUMBERS, **OPTIONAL_NUMBERS}.items():
        value = settings.get(name)
        if value is None and (name in OPTIONAL_NUMBERS or name not in settings):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            yield f"{name} must be a number, {meaning}, not {value!r}"
        elif value < 0 and not name.endswith("_margin"):
            yield f"{name} must not be below 0, not {value!r}"
        elif name.endswith("_margin") and value <= -100:
            yield f"{name} must be above -100 percent, not {value!r}"
    for name, allowed in CHOICES.items():
        if name in settings and not any(settings[name] is it or settings[name] == it for it in allowed):
            yield f"{name} must be one of {', '.join(map(repr, allowed))}, not {settings[name]!r}"


def _faults_of_stages(
    settings: Mapping[str, Any], pipeline: Pipeline, profiles: Mapping[str, StageProfile]
) -> Iterator[str]:
    """Mismatches with the pipeline's stages and profiles."""
    stages = pipeline.stages
    if len(pipeline.served) < len(stages):
        yield "routers and combiners without variants are not in published runs"
        return
    for name in LISTS:
        value = settings.get(name)
        if name in settings and (not isinstance(value, Sequence) or len(value) != len(stages)):
            yield f"{name} must have a value for each of {', '.join(stage.name for stage in stages)}"
            return
    for stage, variant in zip(stages, settings.get("initial_active_model", ()), strict=False):
        names = [each.name for each in stage.variants]
        if variant not in names:
            yield f"initial_active_model: stage {stage.name!r} has no variant {variant!r}, only {names}"
    for name in LISTS[1:]:
        for stage, value in zip(stages, settings.get(name, ()), strict=False):
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                yield f"{name}: stage {stage.name!r} needs a number above 0, not {value!r}"
    mode = settings.get("baseline_mode")
    needed = {"scale": "initial_active_model", "switch": "initial_replica"}.get(str(mode))
    if needed is not None and needed not in settings:
        yield f"baseline_mode {mode!r} needs {needed}"
    yield from _faults_of_loads(settings.get("profiling_load"), stages, profiles)


def _faults_of_loads(
    loads: Any, stages: Sequence[Stage], profiles: Mapping[str, StageProfile]
) -> Iterator[str]:
    """A fault if the run was planned with profiles of other loads, since these cannot repeat it."""
    each = loads if isinstance(loads, Sequence) else [loads] * len(stages)
    if len(each) != len(stages):
        yield f"profiling_load must be one number or one for each of {', '.join(s.name for s in stages)}"
        return
    for stage, load in zip(stages, each, strict=True):
        profile = profiles.get(stage.name)
        if profile is None:
            yield f"stage {stage.name!r} has no profile"
        elif load is not None and profile.load_rps is not None and profile.load_rps != load:
            yield f"profiling_load {load!r}: stage {stage.name!r} was measured at {profile.load_rps:g} rps"


# More replicas than any step, and more ticks than any run.
NO_LIMIT = 1_000_000


def repeated(
    setup: SimSetup, run: PublishedRun, *, policy: str | Policy | None = None, spacing: str | None = None
) -> SimSetup:
    """The setup with the settings of the run, and the other differences of the released system.

    It plans with `policy` (None: ipa-artifact) for a point forecast of per-second rates and its margin,
    applies each new plan at once, adds nothing by itself, drops a whole batch with its oldest member, and is
    sent the requests of a second at its start (`spacing` None). The first configuration is used if it was
    measured.
    """
    planned = Profiled(PlannerInputs(run.pipeline, setup.profiles))
    starting = run.starting if run.starting and planned.describe(run.starting, 1.0) else ()
    return replace(
        setup,
        pipeline=run.pipeline,
        objective=None,
        policy="ipa-artifact" if policy is None else policy,
        spacing=spacing or "burst",
        queue="batch",
        start=starting or setup.start,
        forecast=replace(setup.forecast, quantile=0.5, smooth_s=1.0, margin_ratio=run.margin_ratio),
        guards=replace(
            setup.guards,
            tick_s=run.interval_s,
            peek_s=0.0,
            max_step_replicas=NO_LIMIT,
            correct_profiles=False,
        ),
    )
