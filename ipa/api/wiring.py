"""Hands the running service to the API."""

from __future__ import annotations

from ipa.api.live import BesideLive, LiveState, beside_live, live_state
from ipa.api.services import Check, Services
from ipa.bootstrap import App
from ipa.model.errors import IpaError
from ipa.model.observation import Missing, MissingReason
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan
from ipa.optimize.problem import Compat
from ipa.policies.planning import plan_pipeline
from ipa.profiling.points import Allocation


def services_of(app: App) -> Services:
    """The services of a running application."""
    return Services(
        pipelines=app.pipelines,
        profiles=lambda name: app.profiles[name],
        log=app.store,
        controls=app.store,
        plan=_Planner(app),
        live=lambda name: _live(app, name),
        apply=lambda name, configs, detail: app.loops[name].request(configs, detail),
        readiness=lambda: _readiness(app),
        verify=app.store.verify_decisions,
        clock=app.clock,
        plans=app.store.plans,
        answers=app.store.answers,
        registry=app.registry,
        endpoints=app.endpoints,
        standing=app.standing,
        beside=lambda name: _beside(app, name),
    )


class _Planner:
    """Solves with the service's profiles and deadline."""

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(
        self,
        pipeline: Pipeline,
        rate_rps: float,
        *,
        objective: str,
        compat: Compat,
        allocation: Allocation,
        solver: str,
    ) -> Plan:
        return plan_pipeline(
            pipeline,
            self._app.profiles[pipeline.name],
            rate_rps,
            objective=objective,
            compat=compat,
            allocation=allocation,
            solver=solver,
            deadline_s=self._app.settings.solver_deadline_s,
        )


def _live(app: App, name: str) -> LiveState:
    return live_state(
        app.pipelines[name],
        app.profiles[name],
        app.loops[name].snapshot(),
        now=app.clock.now(),
        tick_s=app.settings.tick_s,
    )


def _beside(app: App, name: str) -> tuple[BesideLive, ...]:
    loop = app.beside.get(name)
    if loop is None:
        return ()
    return (beside_live(loop.policy, app.pipelines[name], app.profiles[name], loop.snapshot()),)


def _readiness(app: App) -> tuple[Check, ...]:
    """The store is required; metrics, workloads and a Lease that do not answer make the service degraded.

    A standby is as ready as a leader: it answers every read, and says of writes who takes them.
    """
    return (_store_check(app), _leadership_check(app), *(_loop_check(app, name) for name in app.loops))


def _store_check(app: App) -> Check:
    try:
        for name in app.pipelines:
            app.store.control(name)
    except IpaError as error:
        return Check("store", False, error.message, required=True)
    return Check("store", True, required=True)


def _leadership_check(app: App) -> Check:
    standing = app.standing()
    return Check("leadership", not standing.trouble, standing.words)


def _loop_check(app: App, name: str) -> Check:
    observation = app.loops[name].snapshot().observation
    if observation is None:
        return Check(name, False, "nothing was observed yet")
    rate = observation.arrival_rate_rps
    if isinstance(rate, Missing) and rate.reason is MissingReason.UNREACHABLE:
        return Check(name, False, f"metrics: {rate.detail}")
    return Check(name, not observation.problem, observation.problem)
