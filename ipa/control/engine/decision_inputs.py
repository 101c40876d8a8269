"""The inputs of a decision, as they are recorded with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import ipa
from ipa.control.canonical import digest_of
from ipa.control.decode import restored
from ipa.control.engine.canary import FAILED
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.quarantine import FailedRollout, add
from ipa.control.engine.state import ChangeRequest, EngineState, PlannerProvenance, TickRequest
from ipa.control.ports import PipelineControl, Rollout, RolloutPhase
from ipa.model.decision import Decision, ReasonCode
from ipa.model.errors import InputError
from ipa.model.observation import Observation
from ipa.model.rolling import Rolling
from ipa.policies.base import Policy

if TYPE_CHECKING:
    from ipa.policies.table import PolicyInputs


@dataclass(frozen=True, slots=True)
class DecisionInputs:
    """The request of a tick and the state before it; of what is long or no value, the digest or the name.

    `pipeline` is the pipeline's digest, `policy` the policy's name, `version` that of this package (and of
    the package that a plug-in policy comes with).
    """

    pipeline: str
    policy: str
    made_of: PlannerProvenance
    version: str
    control: PipelineControl
    observation: Observation
    rollout: Rollout | None
    requested: ChangeRequest | None
    settings: GuardSettings
    rolling: Rolling
    now_s: float
    at: datetime
    state: EngineState


def inputs_of(request: TickRequest, before: EngineState) -> DecisionInputs:
    """The inputs of that tick."""
    return DecisionInputs(
        pipeline=digest_of(request.pipeline),
        policy=request.policy.name,
        made_of=request.made_of,
        version=version_of(request.policy),
        control=request.control,
        observation=request.observation,
        rollout=request.rollout,
        requested=request.requested,
        settings=request.settings,
        rolling=request.rolling,
        now_s=request.now_s,
        at=request.at,
        state=before,
    )


def recalled_failures(
    last: Decision, inputs: DecisionInputs, base_s: float, later_s: float
) -> tuple[FailedRollout, ...]:
    """The failures that an earlier process knew after its last decision; its clock reads `later_s` less."""
    failures, rollout = inputs.state.failures, inputs.rollout or Rollout(RolloutPhase.FAILED)
    if last.reason is ReasonCode.ROLLBACK:
        # The state is that of before it.
        why = last.detail if last.detail.startswith(FAILED) else ""
        before, room = last.previous if rollout.lacks_room else last.configs, rollout.room_cores
        failures = add(failures, before, last.previous, base_s, inputs.now_s, why, room)
    return tuple(replace(each, until_s=each.until_s + later_s) for each in failures)


def version_of(policy: Policy) -> str:
    """The version of this package, with the package and version of a policy that comes with another."""
    package = getattr(policy, "package", "")
    return f"{ipa.__version__} with {package}" if package else ipa.__version__


def read_inputs(text: str) -> DecisionInputs:
    """Decode the inputs; InputError if the text is invalid. A policy's memory stays plain."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"they are not JSON: {error}") from error
    return restored(DecisionInputs, values)


def made_of(inputs: PolicyInputs) -> PlannerProvenance:
    """The provenance that is recorded with each decision."""
    return PlannerProvenance(digest_of(inputs.profiles), inputs.objective, inputs.solver, inputs.deadline_s)
