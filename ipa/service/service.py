"""The service: the ports that its use cases need beside those of `ipa.control`, and its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import ipa
from ipa.control.audit.record import Head, Verified
from ipa.control.audit.replay import ReplayResult
from ipa.control.election import LeaderStatus
from ipa.control.loop.control_loop import ControlLoop
from ipa.control.ports import Attribution, Clock, ControlStore, DecisionLog
from ipa.control.saved_plans import AnswerStore, PlanStore
from ipa.model.decision import Decision
from ipa.model.errors import NotFoundError, PreconditionError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan
from ipa.model.probe import RequestAddress
from ipa.model.profile import StageProfile
from ipa.optimize.explain import Explanation
from ipa.optimize.frontier import FrontierPoint
from ipa.policies.planning import PlanQuestion
from ipa.profiling.findings import doubts
from ipa.settings import GROUPS, Settings, SettingSource, shown_setting, variable_of


@dataclass(frozen=True, slots=True)
class Precondition:
    """The versions that a change was made for; `text` has them as the caller wrote them."""

    versions: frozenset[str]
    text: str

    def check(self, version: str, what: str) -> None:
        """PreconditionError if `what` has another version."""
        now = plain_version(version)
        if now not in self.versions:
            raise PreconditionError(f'{what} is at "{now}", not {self.text}; read it again')


def plain_version(version: str) -> str:
    """The version without the quotes of an HTTP entity tag."""
    return version.replace('"', "")


def at_revision(revision: str) -> Precondition:
    """The precondition that the revision is still this one."""
    version = plain_version(revision)
    return Precondition(frozenset({version}), f'"{version}" when the change was decided')


@dataclass(frozen=True, slots=True)
class ChangeOrder:
    """A person's request for a change: author, reason, and the versions that it was made for.

    `confirmed`: it may take capacity while requests are late.
    """

    expected: Precondition
    by: str = ""
    reason: str = ""
    confirmed: bool = False

    def words(self, what: str) -> str:
        """The detail of the decision: what was requested, by whom, and why."""
        return f"{what} by {self.by or 'someone'}" + (f": {self.reason}" if self.reason else "")


class EditState(StrEnum):
    """The state of an edit."""

    TAKEN = "taken"
    REFUSED = "refused"
    # Something else has to end first, such as a change that rolls out; then it is tried again.
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class PipelineEdit:
    """An edit of a running pipeline's files: by whom, of which file (`source`), and its changes.

    `message` tells why it is refused, or what it waits for: until then the earlier version is in force.
    """

    state: EditState
    source: str
    at: str
    by: str = ""
    changes: tuple[str, ...] = ()
    message: str = ""

    @property
    def words(self) -> str:
        """The changes in one line."""
        return "; ".join(self.changes)


class PipelineRegistry(Protocol):
    """The pipelines of the service with their profiles and loops; some come and go while it runs.

    The mappings change in place: read them key by key. Errors of changes: ConflictError (the pipeline is one
    of a file), InProgressError (a change of it is rolling out).
    """

    @property
    def pipelines(self) -> Mapping[str, Pipeline]:
        """Every pipeline, whether or not the caller may see it."""

    @property
    def profiles(self) -> Mapping[str, Mapping[str, StageProfile]]:
        """The newest profiles by pipeline and stage."""

    @property
    def loops(self) -> Mapping[str, ControlLoop]:
        """The loops of the pipelines that are controlled here."""

    @property
    def beside(self) -> Mapping[str, ControlLoop]:
        """The loops of policies that run in the shadow of another, by pipeline."""

    @property
    def files(self) -> frozenset[str]:
        """The pipelines that come from files, which the service only reads."""

    def unfit(self, name: str) -> str:
        """The reason in words if no loop runs for the pipeline; else empty."""

    def address(self, pipeline: Pipeline) -> RequestAddress:
        """The address for the pipeline's requests, or the reason why there is none."""

    def edit(self, name: str) -> PipelineEdit | None:
        """The latest edit of the pipeline while it ran; None if there was none."""

    def version(self, pipeline: Pipeline) -> str:
        """The version of a pipeline, which changes with anything in its file."""

    def give(self, pipeline: Pipeline, attribution: Attribution) -> None:
        """Add a pipeline, or replace the one of that name; `attribution.deed` tells which."""

    def give_profile(self, profile: StageProfile, attribution: Attribution) -> None:
        """Store the profile as the newest of its stage, and plan with it from now on."""

    def remove(self, name: str, attribution: Attribution) -> str:
        """Stop controlling the pipeline; return what keeps running, in words."""


class RecordOwner(Protocol):
    """The pipeline that writes a record."""

    @property
    def record(self) -> str:
        """The name of the record."""

    @property
    def namespace(self) -> str:
        """The namespace of the pipeline when its record began."""


class PlanSolver(Protocol):
    """The planner: plans, explanations and frontiers. A cancelled call returns once no process computes."""

    async def plan(self, question: PlanQuestion, solver: str, deadline_s: float) -> Plan:
        """The best plan for the rate; infeasible is a termination, not an error."""

    async def explain(self, question: PlanQuestion, plan: Plan, deadline_s: float) -> Explanation:
        """The explanation of the plan for the rate, as far as time allows."""

    async def frontier(self, question: PlanQuestion, deadline_s: float) -> tuple[FrontierPoint, ...]:
        """The Pareto frontier of plans; DeadlineError if not all were found in time."""


@dataclass(frozen=True, slots=True)
class DependencyCheck:
    """A check of a dependency. One that is not `required` may fail without making the service unready."""

    name: str
    ok: bool
    detail: str = ""
    required: bool = False


# The result by the policy of that name (None: the one that made the decision), with a certificate if true.
# Errors: UsageError (the policy cannot have the pipeline), RecordError, DeadlineError.
ReplayDecision = Callable[[Decision, Pipeline, Mapping[str, StageProfile], str | None, bool], ReplayResult]


@dataclass(frozen=True, slots=True)
class Service:
    """The ports of a running service, as far as one caller may see them (`visibility.visible_to`).

    The use cases are the functions of the modules of `ipa.service`.
    """

    # Those that the caller may see; the registry has all of them.
    pipelines: Mapping[str, Pipeline]
    registry: PipelineRegistry
    log: DecisionLog
    controls: ControlStore
    # The record that a pipeline, or PIPELINE@POLICY, writes now: another one for each pipeline that has had a
    # name; and its owner, None if it is not known.
    record_of: Callable[[str], str]
    record_owner: Callable[[str], RecordOwner | None]
    # Recomputes the digests of a record. RecordError names the first entry that is not as it was written, or
    # says that the record contradicts the head.
    verify: Callable[[str, Head | None], Verified]
    plans: PlanStore
    answers: AnswerStore
    planner: PlanSolver
    replayer: ReplayDecision
    # The leader among several replicas of the service.
    standing: Callable[[], LeaderStatus]
    # The result of every check now; the check of a pipeline has its name.
    health: Callable[[], tuple[DependencyCheck, ...]]
    clock: Clock
    settings: Settings
    # UsageError if the target only advises.
    check_acts: Callable[[Pipeline], None] = lambda _: None
    # Base URL of the router that takes the requests of a pipeline, if it runs on this machine.
    endpoints: Mapping[str, str] = field(default_factory=dict)

    def pipeline(self, name: str) -> Pipeline:
        """The pipeline of that name; NotFoundError lists the existing ones."""
        if name not in self.pipelines:
            known = ", ".join(sorted(self.pipelines)) or "none"
            raise NotFoundError(f"there is no pipeline {name!r}", hint=f"There are: {known}")
        return self.pipelines[name]

    def profiles(self, name: str) -> Mapping[str, StageProfile]:
        """The newest profiles of that pipeline by stage."""
        return self.registry.profiles.get(name, {})

    def profile_doubts(self, pipeline: Pipeline) -> tuple[str, ...]:
        """The reasons, one per stage, why its profiles are not credible, with figures."""
        return tuple(map(str, doubts(pipeline.served, self.profiles(pipeline.name))))

    def sees(self, pipeline: str, record: str) -> bool:
        """True if a visible pipeline writes that record now.

        An earlier pipeline of the same name wrote another one.
        """
        return pipeline.partition("@")[0] in self.pipelines and record == self.record_of(pipeline)


SettingValue = str | bool | int | float


@dataclass(frozen=True, slots=True)
class SettingView:
    """A setting: its variable, its group, its value, and where the value comes from.

    `value` is *** for a secret; in a URL each part that may be secret is ***.
    """

    variable: str
    group: str
    value: SettingValue
    default: SettingValue
    source: SettingSource


@dataclass(frozen=True, slots=True)
class ConfigurationView:
    """The effective settings in the order of their groups, and their version."""

    version: str
    settings: tuple[SettingView, ...]


def configuration(settings: Settings) -> ConfigurationView:
    """Every setting as it is in effect."""
    views = [
        SettingView(
            variable_of(name),
            group,
            _shown(name, getattr(settings, name)),
            _shown(name, getattr(_DEFAULTS, name)),
            settings.origins.get(name, SettingSource.DEFAULT),
        )
        for group, names in GROUPS.items()
        for name in names
    ]
    return ConfigurationView(ipa.__version__, tuple(views))


_DEFAULTS = Settings()


def _shown(name: str, value: object) -> SettingValue:
    """The value without the parts that only the service's owner may read."""
    shown = shown_setting(name, str(value) if isinstance(value, Path) else value)
    assert isinstance(shown, SettingValue)
    return shown
