"""Hands the running service to the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ipa.adapters.metrics.figures import stream_figures
from ipa.adapters.solvers.planner import PlannerProcesses
from ipa.adapters.store import Store
from ipa.adapters.ttl_cache import TtlCache
from ipa.api.jobs import JobDesk
from ipa.api.limits import Limits
from ipa.api.services import Services
from ipa.api.streams import Streams
from ipa.bootstrap import App, Replayer
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.loop.control_loop import ControlLoop
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import Clock, PipelineControl
from ipa.model.errors import ConflictError, IpaError, NotFoundError
from ipa.model.observation import Missing, MissingReason
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan
from ipa.model.profile import StageProfile
from ipa.optimize.explanation import Explanation
from ipa.optimize.fleet.named_fleet import plan_together
from ipa.optimize.frontier import FrontierPoint
from ipa.service.health import Check
from ipa.service.live import BesideLive, LiveState, beside_live, live_state

# How long what was found of the store counts.
CHECKED_S = 5.0


def services_of(app: App) -> Services:
    """The services of a running application. Its experiments end with it."""
    jobs, store = JobDesk(app.clock), StoreCheck(app.store.check, app.clock)
    app.resources.callback(jobs.close)
    app.roster.on_end = jobs.end_record
    planner = _Planner(app)
    return Services(
        pipelines=app.pipelines,
        profiles=lambda name: app.profiles.get(name, {}),
        log=app.store,
        controls=app.store,
        plan=planner.plan,
        survey=planner,
        fleet=lambda members, budget: plan_together(members, budget, app.settings.solver_deadline_s),
        live=lambda name: _live(app, name),
        revision=lambda name: _revision(app, name),
        apply=lambda name, configs, detail, by: _loop(app, name).request(configs, detail, by),
        replay=Replayer(app.store, app.sight.forecaster),
        readiness=lambda: _readiness(app, store),
        verify=app.store.verify,
        clock=app.clock,
        plans=app.store.plans,
        answers=app.store.answers,
        given=app.roster,
        jobs=jobs,
        settings=app.settings,
        limits=Limits(
            app.settings.api_expensive_rps,
            app.settings.api_solves,
            app.settings.api_waiting_solves,
            reads_rps=app.settings.api_reads_rps,
            changes_rps=app.settings.api_changes_rps,
            body_s=app.settings.api_body_s,
            bodies_bytes=int(app.settings.api_bodies_mb * 1e6),
        ),
        registry=app.registry,
        http=app.http,
        endpoints=app.endpoints,
        standing=app.standing,
        authenticators=app.authenticators,
        metrics_open=app.settings.metrics_access == "open",
        beside=lambda name: _beside(app, name),
        record_of=app.store.records.of,
        owner_of=app.store.records.owner,
        record=app.store,
        streams=_streams(app),
    )


def _streams(app: App) -> Streams:
    streams = Streams(app.feed, stopping=app.stop.is_set)
    app.registry.register(stream_figures(streams))
    return streams


class _Planner:
    """Planner and surveyor, with the service's profiles, beside this process."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._processes = PlannerProcesses()
        app.resources.callback(self._processes.close)

    def _profiles(self, pipeline: Pipeline) -> Mapping[str, StageProfile]:
        return self._app.profiles.get(pipeline.name, {})

    async def plan(self, pipeline: Pipeline, rate_rps: float, **options: Any) -> Plan:
        deadline_s = self._app.settings.solver_deadline_s
        profiles = self._profiles(pipeline)
        return await self._processes.plan(pipeline, profiles, rate_rps, deadline_s=deadline_s, **options)

    async def explain(self, pipeline: Pipeline, rate_rps: float, plan: Plan, **options: Any) -> Explanation:
        profiles = self._profiles(pipeline)
        return await self._processes.explain(pipeline, profiles, rate_rps, plan, **options)

    async def frontier(
        self, pipeline: Pipeline, rate_rps: float, **options: Any
    ) -> tuple[FrontierPoint, ...]:
        return await self._processes.frontier(pipeline, self._profiles(pipeline), rate_rps, **options)


def _loop(app: App, name: str) -> ControlLoop:
    loop = app.loops.get(name)
    if loop is None:
        raise ConflictError(f"pipeline {name!r} is not controlled here: {app.roster.unfit(name)}")
    return loop


def _live(app: App, name: str) -> LiveState:
    loop = app.loops.get(name)
    unseen = Snapshot(name, 0, PipelineControl(), ActuationPhase.IDLE)
    found = live_state(
        _pipeline(app, name),
        app.profiles.get(name, {}),
        loop.snapshot() if loop else unseen,
        now=app.clock.now(),
        tick_s=app.settings.tick_s,
    )
    return found if loop else replace(found, degraded=(f"not controlled here: {app.roster.unfit(name)}",))


def _revision(app: App, name: str) -> str:
    loop = app.loops.get(name)
    observation = loop.snapshot().observation if loop else None
    return observation.revision if observation else ""


def _pipeline(app: App, name: str) -> Pipeline:
    """It may have been removed since the request came."""
    pipeline = app.pipelines.get(name)
    if pipeline is None:
        raise NotFoundError(f"there is no pipeline {name!r} any more", hint="It was removed just now.")
    return pipeline


def _beside(app: App, name: str) -> tuple[BesideLive, ...]:
    loop = app.beside.get(name)
    if loop is None:
        return ()
    profiles = app.profiles.get(name, {})
    return (beside_live(loop.policy, _pipeline(app, name), profiles, loop.snapshot()),)


def _readiness(app: App, store: StoreCheck) -> tuple[Check, ...]:
    """The store is required to be read; all else that fails makes the service degraded.

    That is a store that cannot be written, metrics and workloads that do not answer, and a Lease. A standby
    is as ready as a leader: it answers every read, and says of writes who takes them.
    """
    return (
        store(),
        _writes_check(app.store),
        _retention_check(app.store),
        _leadership_check(app),
        *(_loop_check(app, name) for name in list(app.loops)),
    )


class StoreCheck:
    """Whether the store can be read, as it was at most CHECKED_S ago: anyone may ask, and often."""

    def __init__(self, check: Callable[[], None], clock: Clock) -> None:
        self._check = check
        self._kept: TtlCache[Check] = TtlCache(CHECKED_S, clock.monotonic_s)

    def __call__(self) -> Check:
        return self._kept.get("store", self._checked)[0]

    def _checked(self) -> Check:
        try:
            self._check()
        except IpaError as error:
            return Check("store", False, error.message, required=True)
        return Check("store", True, required=True)


def _writes_check(store: Store) -> Check:
    """Readers are served, and loops hold, where the store cannot be written."""
    reasons = store.degraded()
    return Check("store writes", not reasons, " ".join(reasons))


def _retention_check(store: Store) -> Check:
    """The store is kept as its retention says; if its size decides what is removed, that is said."""
    troubles = store.troubles()
    words = "; ".join(troubles)
    if not troubles and store.keeper.is_bounded:
        words = "holds are removed before their age: decisions take more than IPA_KEEP_DECISIONS_MB"
    return Check("store retention", not troubles, words)


def _leadership_check(app: App) -> Check:
    standing = app.standing()
    return Check("leadership", not standing.trouble, standing.words)


def _loop_check(app: App, name: str) -> Check:
    loop = app.loops.get(name)
    observation = loop.snapshot().observation if loop else None
    if observation is None:
        return Check(name, False, "nothing was observed yet")
    rate = observation.arrival_rate_rps
    if isinstance(rate, Missing) and rate.reason is MissingReason.UNREACHABLE:
        return Check(name, False, f"metrics: {rate.detail}")
    return Check(name, not observation.problem, observation.problem)
