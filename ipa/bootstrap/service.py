"""The service over the running application, and its health checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ipa.adapters.solvers.planner import PlannerProcesses
from ipa.adapters.solvers.supervised import supervised
from ipa.adapters.store import Store
from ipa.adapters.ttl_cache import TtlCache
from ipa.bootstrap.app import App
from ipa.control.audit.replay import REPLAY_S, Replayer
from ipa.control.election import ALONE, LeaderStatus
from ipa.control.loop.control_loop import ControlLoop
from ipa.control.loop.time_limit import TimeLimit
from ipa.control.ports import Clock
from ipa.model.errors import IpaError
from ipa.model.observation import Missing, MissingReason
from ipa.policies.registry import POLICIES
from ipa.service.live_state import runs_nothing
from ipa.service.service import DependencyCheck, Service

# Seconds for which the result of reading the store counts.
CHECKED_S = 5.0


class StoreCheck:
    """Checks that the store can be read, at most every CHECKED_S: anyone may ask, and often."""

    def __init__(self, check: Callable[[], None], clock: Clock) -> None:
        self._check = check
        self._cache: TtlCache[DependencyCheck] = TtlCache(CHECKED_S, clock.monotonic_s)

    def __call__(self) -> DependencyCheck:
        """The result of the latest check."""
        return self._cache.get("store", self._checked)[0]

    def _checked(self) -> DependencyCheck:
        try:
            self._check()
        except IpaError as error:
            return DependencyCheck("store", False, error.message, required=True)
        return DependencyCheck("store", True, required=True)


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """Checks the store, the leadership and every loop.

    Only a store that cannot be read makes the service unready; any other failure makes it degraded: a store
    that cannot be written, metrics and workloads that do not answer, and a Lease. A standby is as ready as a
    leader: it answers every read, and names the leader for writes.
    """

    store: Store
    store_check: StoreCheck
    standing: Callable[[], LeaderStatus]
    loops: Mapping[str, ControlLoop]

    def checks(self) -> tuple[DependencyCheck, ...]:
        """The result of every check now."""
        reasons, troubles, standing = self.store.degraded(), self.store.troubles(), self.standing()
        retention = "; ".join(troubles)
        if not troubles and self.store.pruned.is_bounded:
            retention = "holds are removed early, because decisions take more than IPA_KEEP_DECISIONS_MB"
        return (
            self.store_check(),
            # Readers are served, and loops hold, if the store cannot be written.
            DependencyCheck("store writes", not reasons, " ".join(reasons)),
            DependencyCheck("store retention", not troubles, retention),
            DependencyCheck("leadership", not standing.trouble, standing.words),
            *(self._loop(name, loop) for name, loop in list(self.loops.items())),
        )

    def _loop(self, name: str, loop: ControlLoop) -> DependencyCheck:
        observation = loop.snapshot().observation
        if observation is None:
            return DependencyCheck(name, False, "nothing was observed yet")
        if runs_nothing(loop.pipeline, observation):
            return DependencyCheck(name, True, f"planned only: {loop.pipeline.not_runnable_because}")
        rate = observation.arrival_rate_rps
        if isinstance(rate, Missing) and rate.reason is MissingReason.UNREACHABLE:
            return DependencyCheck(name, False, f"metrics: {rate.detail}")
        return DependencyCheck(name, not observation.problem, observation.problem)


def make_service(app: App) -> Service:
    """The service of a running application; its planner's processes end with the application."""
    planner = PlannerProcesses()
    app.resources.callback(planner.close)
    standing = app.leadership.standing if app.leadership else lambda: ALONE
    return Service(
        pipelines=app.pipelines,
        registry=app.roster,
        log=app.store,
        controls=app.store,
        record_of=app.store.records.of,
        record_owner=app.store.records.owner,
        verify=app.store.verify,
        plans=app.store.plans,
        answers=app.store.answers,
        planner=planner,
        replayer=Replayer(
            app.store,
            solvers=supervised,
            limited=lambda name: TimeLimit(str(POLICIES.find(name)), REPLAY_S),
            sign=app.store.keyring.sign,
        ),
        standing=standing,
        health=ServiceHealth(app.store, StoreCheck(app.store.check, app.clock), standing, app.loops).checks,
        clock=app.clock,
        settings=app.settings,
        check_acts=app.roster.makers.target.check_acts,
        endpoints=app.roster.makers.endpoints,
    )
