"""The input of a tick, the state between ticks, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from ipa.control.engine.actuation import IDLE, Actuation
from ipa.control.engine.canary import CanaryTrial, Variants
from ipa.control.engine.correction import UNCORRECTED, Correction
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.quarantine import FailedRollout
from ipa.control.ports import PipelineControl, Rollout
from ipa.model.decision import Action, ReasonCode
from ipa.model.observation import Forecast, LoadHistory, Observation
from ipa.model.parts import Configs
from ipa.model.pipeline import Fallback, Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.model.recording import UNLESS_DEFAULT, recorded_as
from ipa.model.rolling import Rolling
from ipa.policies.base import Policy, Predictor

# A tick is on time from this share of an interval on; clocks make it a little early or late.
NEARLY = 0.8


# Forecasts the peak of a load, with horizon and quantile already chosen. DomainError: the load has no rate.
PeakForecaster = Callable[[LoadHistory], Forecast]


@dataclass(frozen=True, slots=True)
class ChangeRequest:
    """A change that a person (`by`) asked for, or the remaining steps of one, with its description.

    `plan_id` is the stored plan whose configuration it is; empty if it comes from none. If it `restores` a
    configuration that ran, only a budget may refuse it. `step_of` is the decision whose steps remain, and
    `before` the configuration before that. `undoes` is the decision whose change it takes back, if any.
    """

    configs: tuple[StageConfig, ...]
    detail: str
    reason: ReasonCode = ReasonCode.REQUESTED
    by: str = ""
    plan_id: str = ""
    restores: bool = field(default=False, metadata=UNLESS_DEFAULT)
    step_of: str = field(default="", metadata=UNLESS_DEFAULT)
    before: tuple[StageConfig, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    undoes: str = field(default="", metadata=UNLESS_DEFAULT)


@dataclass(frozen=True, slots=True)
class PlannerProvenance:
    """The inputs of policy and predictor besides the pipeline: `profiles` is the digest of all profiles.

    `objective` None is the pipeline's default. Planning took at most `deadline_s` for each plan.
    """

    profiles: str = ""
    objective: str | None = None
    solver: str = "auto"
    deadline_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRequest:
    """The input of a tick that decisions record as it is.

    `rollout` is given if the state's actuation asks for it.
    """

    control: PipelineControl
    observation: Observation
    settings: GuardSettings
    rolling: Rolling
    made_of: PlannerProvenance
    rollout: Rollout | None
    requested: ChangeRequest | None
    now_s: float
    at: datetime

    @property
    def recorded(self) -> dict[str, Any]:
        """The values of this input, by name."""
        return {each.name: getattr(self, each.name) for each in fields(RecordedRequest)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TickRequest(RecordedRequest):
    """The complete input of a tick."""

    pipeline: Pipeline
    forecaster: PeakForecaster
    policy: Policy
    predict: Predictor
    # Makes decision ids unique over restarts of the service.
    run_id: str

    @property
    def running(self) -> Configs:
        """The running configuration, which is known to the rules after `workload_unknown`."""
        running = self.observation.running()
        assert running is not None
        return running


@dataclass(frozen=True, slots=True)
class WriteBlock:
    """A stop until a person changes the pipeline's control, or until `until_s` if that is given."""

    reason: ReasonCode
    detail: str
    control: PipelineControl
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class TelemetryLoss:
    """The ticks in a row without and with a valid load, and True if the fall-back is in force.

    It begins after `after_ticks` ticks without load and ends after `recover_ticks` ticks with load in a row:
    a metrics server that fails now and then does not toggle it.
    """

    blind_ticks: int = 0
    seen_ticks: int = 0
    in_fallback: bool = False

    def without_load(self, fallback: Fallback | None) -> TelemetryLoss:
        """The state after one more tick without load."""
        blind_ticks = self.blind_ticks + 1
        begins = fallback is not None and blind_ticks >= fallback.after_ticks
        return TelemetryLoss(blind_ticks, 0, self.in_fallback or begins)

    def with_load(self, fallback: Fallback | None) -> TelemetryLoss:
        """The state after one more tick with load."""
        seen_ticks = self.seen_ticks + 1
        goes_on = self.in_fallback and fallback is not None and seen_ticks < fallback.recover_ticks
        return TelemetryLoss(0, seen_ticks, goes_on)


TELEMETRY_SEEN = TelemetryLoss()


@dataclass(frozen=True, slots=True)
class EngineState:
    """The state that one tick leaves to the next.

    `last_applied`: the configuration that runs by our own write, None if that is not known. `planned`: True
    once a plan was applied. `conflicts`: refused writes in a row. `drifts_s`: times at which somebody else
    changed the running configuration. `goal`: a change that takes several steps and goes on whatever the load
    is (a person's request, the shares of a set). `shadow`: the configuration that shadow mode would run by
    now. `counted_s`: the time of the last tick that counted (see `counts`). `memory`: the policy's own.
    `correction`: the slowdowns of the variants over their profiles. `is_late`: too many of the last requests
    were late. `ended`: the change of which this tick saw the end. `trial`: the canary that starts or is
    measured. `proven`: the variants that need none. `missed_gain`: what other plans would have gained more
    since the last change, of which that of earlier minutes fades.
    """

    tick: int = 0
    actuation: Actuation = IDLE
    failures: tuple[FailedRollout, ...] = ()
    last_applied: Configs | None = field(default=None, metadata=recorded_as("ours"))
    planned: bool = False
    conflicts: int = 0
    drifts_s: tuple[float, ...] = ()
    block: WriteBlock | None = None
    telemetry_loss: TelemetryLoss = field(default=TELEMETRY_SEEN, metadata=recorded_as("blindness"))
    goal: ChangeRequest | None = None
    shadow: tuple[StageConfig, ...] | None = None
    last_reason: ReasonCode | None = None
    counted_s: float | None = None
    memory: object = None
    correction: Correction = UNCORRECTED
    is_late: bool = False
    ended: Actuation | None = None
    trial: CanaryTrial | None = field(default=None, metadata=UNLESS_DEFAULT)
    proven: Variants = field(default=frozenset(), metadata=UNLESS_DEFAULT)
    missed_gain: float = field(default=0.0, metadata=UNLESS_DEFAULT)

    def counts(self, request: TickRequest) -> bool:
        """True if this tick counts among ticks in a row; one that was brought forward does not."""
        least_s = NEARLY * request.settings.tick_s
        return self.counted_s is None or request.now_s - self.counted_s >= least_s


@dataclass(frozen=True, slots=True)
class TickVerdict:
    """The verdict of a tick; for APPLY, `configs` are to be written."""

    action: Action
    reason: ReasonCode
    detail: str
    configs: tuple[StageConfig, ...] = ()
    plan: Plan | None = None
    forecast: Forecast | None = None
    # The configuration to write, if the mode held it back.
    proposed: tuple[StageConfig, ...] = ()
    # The configuration to write once this one is ready (`Step.follow_up`).
    follow_up: tuple[StageConfig, ...] = ()
    # True if it adds to the change in flight.
    amends: bool = False
    # True if a person takes back the change in flight.
    takes_back: bool = False
    # The canary that begins or goes on with it.
    trial: CanaryTrial | None = None
    # What another plan is worth more than staying, by the second.
    gain: float = 0.0
    # The request of which it is the next step, if that is not the state's goal.
    continues: ChangeRequest | None = None


def hold(
    reason: ReasonCode,
    detail: str,
    *,
    plan: Plan | None = None,
    forecast: Forecast | None = None,
    proposed: Configs = (),
) -> TickVerdict:
    """The verdict to leave everything as it is."""
    return TickVerdict(Action.HOLD, reason, detail, plan=plan, forecast=forecast, proposed=proposed)
