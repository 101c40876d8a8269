"""What the API needs of the rest of the service; whoever starts the API hands it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry

from ipa.adapters.metrics.http import HttpMetrics
from ipa.adapters.store.feed import Record
from ipa.adapters.store.records import Owner
from ipa.api.jobs import JobDesk
from ipa.api.limits import Limits
from ipa.api.streams import Streams
from ipa.control.audit.record import Head, Verified
from ipa.control.audit.replay import ReplayResult
from ipa.control.election import ALONE, LeaderStatus
from ipa.control.idempotency import AnswerStore
from ipa.control.ports import Attribution, Clock, ControlStore, DecisionLog
from ipa.control.saved_plans import PlanStore
from ipa.model.access import Identity
from ipa.model.decision import Decision
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.model.profile import StageProfile
from ipa.optimize.explanation import Explanation
from ipa.optimize.fleet.named_fleet import Fleet
from ipa.optimize.fleet.plan import Member
from ipa.optimize.frontier import FrontierPoint
from ipa.optimize.problem import Compat
from ipa.profiling.points import Allocation
from ipa.service.health import Check
from ipa.service.live import BesideLive, LiveState
from ipa.settings import Settings


class Authenticator(Protocol):
    """Knows whose some tokens are."""

    def takes(self, token: str) -> bool:
        """Whether it is the one to ask of that token, by its form."""
        ...

    def identify(self, token: str, *, fresh: bool, within_s: float = ...) -> Identity | None:
        """Whose it is, None where it does not hold; `fresh`: not by what was said before.

        Otherwise by what was said at most `within_s` ago, where an answer is kept at all.

        UnavailableError where it cannot be found out.
        """
        ...


class Planner(Protocol):
    """Solves for a pipeline, whose SLA, bounds and objectives may differ from the file's."""

    async def __call__(
        self,
        pipeline: Pipeline,
        rate_rps: float,
        *,
        objective: str,
        compat: Compat,
        allocation: Allocation,
        solver: str,
    ) -> Plan:
        """The plan; INFEASIBLE is a termination, not an error. Cancelled, it ends once nothing computes."""
        ...


class Surveyor(Protocol):
    """Looks around a plan, as `Planner` makes it. Cancelled, it ends once nothing computes."""

    async def explain(
        self,
        pipeline: Pipeline,
        rate_rps: float,
        plan: Plan,
        *,
        objective: str,
        compat: Compat,
        allocation: Allocation,
        deadline_s: float,
    ) -> Explanation:
        """Why that is the plan, as far as time allows."""
        ...

    async def frontier(
        self,
        pipeline: Pipeline,
        rate_rps: float,
        *,
        objective: str,
        compat: Compat,
        allocation: Allocation,
        deadline_s: float,
    ) -> tuple[FrontierPoint, ...]:
        """The plans that none betters; DeadlineError where not all were found in time."""
        ...


class FleetPlanner(Protocol):
    """Solves for many pipelines together."""

    def __call__(self, members: Sequence[Member], budget_cores: float) -> Fleet:
        """The plans of most worth together; InfeasibleError where the budget holds none."""
        ...


class Replayer(Protocol):
    """Takes recorded decisions again."""

    def __call__(
        self,
        decision: Decision,
        pipeline: Pipeline,
        profiles: Mapping[str, StageProfile],
        policy: str | None = None,
    ) -> ReplayResult:
        """What came of it, by the policy of that name or the one that took it.

        Errors: UsageError (the policy cannot have the pipeline), RecordError, DeadlineError.
        """
        ...


class Applier(Protocol):
    """Carries out a configuration that a person asked for."""

    def __call__(self, pipeline: str, configs: tuple[StageConfig, ...], detail: str, by: str) -> Decision:
        """The recorded decision: applied, or a hold that says why. `detail` is who (`by`) asked and why."""
        ...


class Given(Protocol):
    """The pipelines that come and go over the API. Errors: ConflictError (of a file), InProgressError."""

    @property
    def pipelines(self) -> Mapping[str, Pipeline]:
        """All that there are now, whoever may see them."""
        ...

    @property
    def files(self) -> frozenset[str]:
        """Those that come from files, and so are only read."""
        ...

    def unfit(self, name: str) -> str:
        """Why it is not controlled here, in words; empty where it is."""
        ...

    def give(self, pipeline: Pipeline, said: Attribution) -> None:
        """Take it up; one of that name must be there to be replaced, or not be there to be given."""
        ...

    def give_profile(self, profile: StageProfile, said: Attribution) -> None:
        """Plan with it from now on."""
        ...

    def remove(self, name: str, said: Attribution) -> str:
        """Stop controlling it; what that leaves, in words."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything behind the routes. The functions take a pipeline's name, which the routes have checked."""

    pipelines: Mapping[str, Pipeline]
    profiles: Callable[[str], Mapping[str, StageProfile]]
    log: DecisionLog
    controls: ControlStore
    plan: Planner
    survey: Surveyor
    fleet: FleetPlanner
    live: Callable[[str], LiveState]
    # The revision of what runs, that `live` has too and takes longer for; empty where it was not seen.
    revision: Callable[[str], str]
    apply: Applier
    replay: Replayer
    readiness: Callable[[], tuple[Check, ...]]
    # What the record of a pipeline holds; RecordError names the first entry that is not as it was written, or
    # not as the head says that was kept elsewhere.
    verify: Callable[[str, Head | None], Verified]
    clock: Clock
    plans: PlanStore
    answers: AnswerStore
    given: Given
    jobs: JobDesk
    settings: Settings
    limits: Limits = field(default_factory=Limits)
    registry: CollectorRegistry = field(default=REGISTRY)
    # None where requests are not counted.
    http: HttpMetrics | None = None
    # Base URL of the router that takes the requests of a pipeline, where it runs on this machine.
    endpoints: Mapping[str, str] = field(default_factory=dict)
    # Whether this replica leads, and who does where it does not.
    standing: Callable[[], LeaderStatus] = lambda: ALONE
    # Who knows who asks; none where nobody has to say who they are.
    authenticators: tuple[Authenticator, ...] = ()
    # Whether the metrics are there for all who reach the port.
    metrics_open: bool = True
    # The policies that only say what they would do of a pipeline.
    beside: Callable[[str], tuple[BesideLive, ...]] = lambda pipeline: ()
    # The record that a pipeline, or PIPELINE@POLICY, writes now: another one for each that has had its name.
    record_of: Callable[[str], str] = lambda name: name
    # Whose it is; None where that is not known.
    owner_of: Callable[[str], Owner | None] = lambda name: None
    # The record itself, and those who follow it; None where there is none to be had.
    record: Record | None = None
    streams: Streams | None = None

    def sees(self, pipeline: str, record: str) -> bool:
        """True if that record is the one that a pipeline that may be seen writes now.

        An earlier pipeline of the same name had another one.
        """
        return pipeline.partition("@")[0] in self.pipelines and record == self.record_of(pipeline)
