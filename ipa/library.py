"""The public Python interface: plan, simulate and forecast from a script or notebook, and write plug-ins.

    from ipa.library import example, plan, simulate

    pipeline, profiles = example()
    best = plan(pipeline, profiles, arrival_rate_rps=12)
    result = simulate(pipeline, profiles, rates_rps=[8.0] * 300, policy="hpa")

The names of this module stay as they are within a major version; other modules of the package may change.
Every error raised on purpose is an `IpaError`. Nothing here keeps state between calls, and equal arguments
give equal results, except for the times that a solver took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ipa.experiment.cells import PolicyComparison
from ipa.files import load_pipeline as _load_pipeline
from ipa.files import load_profile
from ipa.files.pipelines import FILE_NAME, packaged_example
from ipa.files.traces import read_rates
from ipa.forecast.base import Forecaster, Peak, Series
from ipa.forecast.ladder import forecast as _forecast
from ipa.forecast.ladder import rungs_of
from ipa.forecast.quality import ForecastScore
from ipa.forecast.reactive import LastValue
from ipa.forecast.registry import FORECASTERS
from ipa.model.decision import Decision
from ipa.model.errors import (
    DeadlineError,
    DomainError,
    InfeasibleError,
    InputError,
    IpaError,
    NotFoundError,
    PluginError,
    SolverError,
    UsageError,
)
from ipa.model.observation import Forecast, LoadHistory, Measured, Missing, Observation, StageObservation
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig, StagePlan, Termination
from ipa.model.profile import StageProfile
from ipa.optimize.frontier import FrontierPoint
from ipa.optimize.frontier import frontier as _frontier
from ipa.optimize.registry import check_solver
from ipa.optimize.solve import solve
from ipa.policies.base import Policy, PolicyState
from ipa.policies.planning import planning_problem
from ipa.policies.registry import POLICIES
from ipa.policies.rules import plan_of
from ipa.policies.table import PolicyFactory, PolicyInputs, make_policy
from ipa.simulate.ground_truth import SlowPeriod
from ipa.simulate.run import SimResult, SimSetup, SimTick

__all__ = [
    "DeadlineError",
    "Decision",
    "DomainError",
    "Forecast",
    "ForecastScore",
    "Forecaster",
    "FrontierPoint",
    "InfeasibleError",
    "InputError",
    "IpaError",
    "LoadHistory",
    "Measured",
    "Missing",
    "NotFoundError",
    "Observation",
    "Peak",
    "Pipeline",
    "Plan",
    "PluginError",
    "Policy",
    "PolicyComparison",
    "PolicyFactory",
    "PolicyInputs",
    "PolicyState",
    "Series",
    "SimResult",
    "SimSetup",
    "SimTick",
    "SlowPeriod",
    "SolverError",
    "StageConfig",
    "StageObservation",
    "StagePlan",
    "StageProfile",
    "Termination",
    "UsageError",
    "backtest",
    "compare",
    "example",
    "forecast",
    "frontier",
    "load_pipeline",
    "load_profiles",
    "load_trace",
    "make_policy",
    "plan",
    "plan_of",
    "simulate",
]

Profiles = Mapping[str, StageProfile]


def example() -> tuple[Pipeline, dict[str, StageProfile]]:
    """The pipeline and the profiles, by stage, that come with the package.

    A detector and a classifier of video frames, with the profiles that the authors of IPA published.
    """
    return packaged_example()


def load_pipeline(path: str | Path) -> Pipeline:
    """The pipeline in a pipeline.yaml, or in the folder that holds one.

    Errors: InputError (lists every problem with its line), NotFoundError.
    """
    path = Path(path)
    return _load_pipeline(path / FILE_NAME if path.is_dir() else path)


def load_profiles(folder: str | Path) -> dict[str, StageProfile]:
    """The profiles in a folder of STAGE.yaml files, by stage.

    Errors: InputError (lists every problem with its line), NotFoundError (no such folder, or no profile).
    """
    folder = Path(folder)
    profiles = [load_profile(path) for path in sorted(folder.glob("*.yaml"))]
    if not profiles:
        raise NotFoundError(f"there are no profiles in {folder}", hint="Measure them with `ipa profile`.")
    return {profile.stage: profile for profile in profiles}


def load_trace(path: str | Path) -> tuple[float, ...]:
    """The rates of a trace file in requests a second, one a second (docs/how-to/use-a-trace.md).

    Errors: InputError, NotFoundError.
    """
    return read_rates(path)


def plan(
    pipeline: Pipeline,
    profiles: Profiles,
    arrival_rate_rps: float,
    *,
    objective: str | None = None,
    solver: str = "auto",
    deadline_s: float = 5.0,
) -> Plan:
    """The best plan for a rate at which requests arrive, in requests a second.

    The `termination` of a plan without `stages` tells whether there is none (INFEASIBLE; `relaxations` tell
    what would change that) or none was found in `deadline_s` seconds. `objective` names one of the
    pipeline's; `solver` is auto, gurobi, highs or exact.

    Errors: UsageError (a rate that is not above 0, no such solver), NotFoundError (no such objective, a stage
    without a profile), SolverError, DeadlineError.
    """
    problem = planning_problem(pipeline, profiles, arrival_rate_rps, objective=objective)
    return solve(problem, solver, deadline_s)


def frontier(
    pipeline: Pipeline,
    profiles: Profiles,
    arrival_rate_rps: float,
    *,
    objective: str | None = None,
    deadline_s: float = 60.0,
) -> tuple[FrontierPoint, ...]:
    """The Pareto-optimal plans in cost, accuracy and latency, by rising cost.

    The cost is the price of the resources if the pipeline has prices, else the cores. Empty if no plan
    carries the rate. Errors: those of `plan`; DeadlineError if `deadline_s` seconds do not suffice to find
    all of them.
    """
    return _frontier(planning_problem(pipeline, profiles, arrival_rate_rps, objective=objective), deadline_s)


def simulate(
    pipeline: Pipeline,
    profiles: Profiles,
    rates_rps: Sequence[float],
    *,
    policy: str | Policy | Callable[[PolicyInputs], Policy] = "ours",
    forecaster: str = "ladder",
    objective: str | None = None,
    start: Sequence[StageConfig] = (),
    tick_s: float = 10.0,
    horizon_s: float = 20.0,
    seed: int = 0,
    solver: str = "exact",
    capacity_cores: float | None = None,
    world: str | Callable[[SimSetup], SimSetup] = "as-profiled",
) -> SimResult:
    """The result of running a policy on a simulated pipeline: its requests, ticks and decisions.

    `rates_rps` are requests a second, one entry per second. `policy` is a name, a policy, or a factory of one
    that takes `PolicyInputs`, such as a class. An exception of an object that you pass is raised unchanged;
    one of a plug-in by name becomes a decision to hold. `forecaster` is a name or module:attribute, and
    forecasts the peak of the next `horizon_s` seconds; the policy decides every `tick_s` seconds. `start` is
    the first configuration; by default, ipa's plan for the highest rate of the first 20 s. Pods without room
    in `capacity_cores` wait. `world` is a name, as `ipa simulate --world` takes it, or a function that
    changes the setup. Time is virtual: an hour takes seconds.

    Errors: UsageError (no such name), InputError (rates), InfeasibleError (no plan carries the first rates),
    PluginError, those of `plan`.
    """
    from ipa.control.engine.guards import GuardSettings
    from ipa.simulate.cluster import ClusterSettings
    from ipa.simulate.run import ForecastSettings
    from ipa.simulate.run import simulate as run

    setup = SimSetup(
        pipeline,
        profiles,
        tuple(map(float, rates_rps)),
        policy=POLICIES.admit(policy) if isinstance(policy, str) else policy,
        objective=objective,
        seed=seed,
        forecast=ForecastSettings(FORECASTERS.admit(forecaster), horizon_s=horizon_s),
        guards=replace(GuardSettings(), tick_s=tick_s),
        cluster=ClusterSettings(capacity_cores=capacity_cores),
        start=tuple(start),
        solver=check_solver(solver),
        world=world,
    )
    return run(setup)


def compare(
    pipeline: Pipeline,
    profiles: Profiles,
    rates_rps: Sequence[float],
    policies: Sequence[str],
    *,
    seeds: Sequence[int] = (1, 2, 3),
    reference: str | None = None,
    objective: str | None = None,
    forecaster: str = "ladder",
    tick_s: float = 10.0,
) -> PolicyComparison:
    """The figures of policies on one pipeline under the same requests, and their paired differences.

    As `ipa compare`, but in this process: the papers' policies decide at ticks only, ipa's own also read the
    load between them. `policies` are names or module:attribute; the others are compared with `reference`, by
    default the last one.

    Errors: UsageError (no such name), InputError (rates), PluginError, those of `plan`.
    """
    from ipa.experiment.cells import Finished, as_series
    from ipa.experiment.runners import Experiment, PipelineArm
    from ipa.experiment.simulated import cells_of, work
    from ipa.experiment.simulated_page import differences

    names = tuple(POLICIES.admit(name) for name in policies)
    experiment = Experiment(
        name="compare",
        title="",
        runner="simulate",
        path=Path(),
        pipelines_dir=Path(),
        profiles_dir=Path(),
        seeds=tuple(seeds),
        interval_s=tick_s,
        policies=names,
        forecasters=(FORECASTERS.admit(forecaster),),
        reference=reference or names[-1],
    )
    wanted = replace(pipeline, default_objective=objective or pipeline.default_objective)
    loads = [("rates", dict.fromkeys(experiment.seeds, as_series(tuple(rates_rps))))]
    cells = cells_of(experiment, PipelineArm(pipeline.name, pipeline.name), wanted, profiles, loads)
    finished = [Finished(cell.labels, work(cell.payload, cell.series)) for cell in cells]
    return PolicyComparison(
        runs=tuple(each.row for each in finished),
        ticks=tuple(each.outcome.ticks for each in finished),
        differences=tuple(differences(experiment, finished)),
    )


def forecast(
    rates_rps: Sequence[float | None],
    *,
    horizon_s: float = 20.0,
    quantile: float = 0.95,
    forecaster: str | Forecaster = "ladder",
) -> Forecast:
    """The peak rate to expect over the next `horizon_s` seconds: a point and an upper quantile, in rps.

    `rates_rps` are the past rates, one a second, oldest first; None is a gap. `forecaster` is a name,
    module:attribute, or a forecaster; when it cannot answer, the last value is the forecast, and `steps_down`
    tells why. Errors: DomainError (no rate), UsageError (no such forecaster), PluginError.
    """
    load = LoadHistory(1.0, tuple(rates_rps))
    rungs = _rungs(forecaster)
    return _forecast(load, horizon_s=horizon_s, quantile=quantile, rungs=rungs)


def backtest(
    rates_rps: Sequence[float | None],
    forecasters: Sequence[str | Forecaster],
    *,
    horizon_s: float = 20.0,
    quantile: float = 0.95,
    window_s: float = 120.0,
    forecasts: int = 2000,
    train_ratio: float = 0.7,
) -> dict[str, ForecastScore]:
    """The score of each forecaster on a recorded load, by name: error of the point, coverage, pinball loss.

    `rates_rps` are rates by the second. Each forecaster learns from the first `train_ratio` of them. At
    `forecasts` moments of the rest it forecasts the peak of the next `horizon_s` seconds from the `window_s`
    seconds before. A forecaster with too little to learn from is left out.

    Errors: InputError (too short a load), UsageError, PluginError.
    """
    from ipa.forecast.quality import Backtest

    rungs = [_rungs(each)[0] for each in forecasters]
    replay = Backtest(window_s, horizon_s, quantile, forecasts, train_ratio)
    return replay.run(LoadHistory(1.0, tuple(rates_rps)), rungs)


def _rungs(forecaster: str | Forecaster) -> tuple[Forecaster, ...]:
    if isinstance(forecaster, str):
        return rungs_of(FORECASTERS.admit(forecaster))
    return (forecaster, LastValue())
