"""Taking recorded decisions again, with the policies of this service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ipa.adapters.forecasting import ForecasterOf
from ipa.adapters.solvers.supervised import supervised
from ipa.bootstrap.pipeline_registry import policy_of
from ipa.control.audit.replay import ReplayResult, ReplaySetup, inputs_in, nothing, replay, stale
from ipa.control.canonical import digest_of
from ipa.control.engine.tick import made_of
from ipa.control.ports import DecisionLog
from ipa.model.decision import Decision
from ipa.model.errors import DeadlineError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.optimize.deadline import Deadline
from ipa.policies.base import is_stateful
from ipa.policies.registry import POLICIES
from ipa.policies.table import PolicyInputs

# Seconds for all plans of one decision together; it mostly takes a tenth of one.
REPLAY_S = 10.0
# A policy that remembers is shown so many decisions first: of every 5 s these are the 300 s that the HPA
# looks back.
EARLIER = 60


@dataclass(frozen=True, slots=True)
class Replayer:
    """Takes decisions of the record again. Without forecasters it is with the recorded forecasts."""

    log: DecisionLog
    forecaster_of: ForecasterOf | None
    within_s: float = REPLAY_S

    def __call__(
        self,
        decision: Decision,
        pipeline: Pipeline,
        profiles: Mapping[str, StageProfile],
        policy: str | None = None,
    ) -> ReplayResult:
        """The result of the replay, by `policy` or the recorded one.

        Errors: UsageError (no such policy, or not for this pipeline), RecordError, DeadlineError.
        """
        inputs = inputs_in(decision)
        if isinstance(inputs, ReplayResult):
            return inputs
        if not POLICIES.is_known(inputs.policy):
            why = f"policy {inputs.policy!r} decided it, which this service does not have"
            return nothing(decision, why)
        moved = stale(decision, inputs, pipeline, digest_of(profiles), policy or inputs.policy)
        if moved is not None:
            return moved
        until, was = Deadline(self.within_s), inputs.made_of
        asked = PolicyInputs(
            pipeline,
            profiles,
            was.objective,
            was.solver,
            was.deadline_s,
            supervised,
            inputs.rolling,
            until=until,
        )
        chosen, decides = policy_of(policy or inputs.policy, asked, self.within_s)
        forecaster = self.forecaster_of(pipeline, profiles) if self.forecaster_of else None
        deciding = ReplaySetup(pipeline, decides, chosen.predictor(), made_of(asked), forecaster)
        is_taught = decides.name != inputs.policy and is_stateful(decides)
        found = replay(decision, inputs, deciding, self._earlier(decision) if is_taught else ())
        if until.passed:
            raise DeadlineError(
                f"{decision.decision_id} was not decided again within {self.within_s:g} s",
                hint="A replay plans again with the same solver and limits.",
            )
        return found

    def _earlier(self, decision: Decision) -> tuple[Decision, ...]:
        """The decisions before it, oldest first."""
        found = self.log.decisions(decision.pipeline, limit=EARLIER, before_tick=decision.tick)
        return tuple(reversed(found))
