"""Commands: apply a configuration, and roll back to an earlier one."""

from __future__ import annotations

from collections.abc import Sequence

from ipa.control.ports import DecisionLog
from ipa.model.decision import Decision, ReasonCode
from ipa.model.errors import ConflictError, NotFoundError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.service.checks import checked_configs
from ipa.service.preconditions import Precondition
from ipa.service.service import Service
from ipa.service.status import live_of, loop_of


def apply(
    service: Service,
    pipeline: Pipeline,
    configs: Sequence[StageConfig],
    expected: Precondition,
    *,
    by: str = "",
    reason: str = "",
) -> Decision:
    """Apply the configurations if the pipeline is at the expected revision.

    The decision may be a hold with the cause. Errors: PreconditionError, InputError (lists all faults of the
    configurations), ConflictError (no loop controls the pipeline).
    """
    _check_revision(service, pipeline, expected)
    checked = checked_configs(pipeline, configs)
    return carry_out(service, pipeline, checked, requested_by("requested", by, reason), by)


def roll_back(
    service: Service,
    pipeline: Pipeline,
    to: str | None,
    expected: Precondition,
    *,
    by: str = "",
    reason: str = "",
) -> Decision:
    """Apply the configuration before the last change, or after the decision `to`. Errors as for `apply`."""
    _check_revision(service, pipeline, expected)
    configs = rollback_target(pipeline, service.log, to)
    return loop_of(service, pipeline.name).restore(configs, requested_by("rollback", by, reason), by)


def carry_out(
    service: Service,
    pipeline: Pipeline,
    configs: tuple[StageConfig, ...],
    detail: str,
    by: str,
    plan_id: str = "",
) -> Decision:
    """Apply the configurations through the pipeline's loop, and return its decision.

    `plan_id` is the stored plan that they come from. ConflictError: no loop controls the pipeline.
    """
    return loop_of(service, pipeline.name).request(configs, detail, by, plan_id)


def requested_by(what: str, by: str, why: str) -> str:
    """The detail of a decision that a person asked for: who asked, and why."""
    return f"{what} by {by or 'someone'}" + (f": {why}" if why else "")


def rollback_target(pipeline: Pipeline, log: DecisionLog, to: str | None) -> tuple[StageConfig, ...]:
    """The configurations before the last change, or after the decision `to`; ConflictError if unknown."""
    if to is not None:
        decision = log.decision(to)
        if decision.pipeline != pipeline.name:
            raise NotFoundError(
                f"decision {to!r} is of pipeline {decision.pipeline!r}, not {pipeline.name!r}"
            )
        configs = decision.configs
    else:
        change = _last_that_stayed(log.decisions(pipeline.name, applied_only=True))
        configs = change.previous if change else ()
    if not configs:
        raise ConflictError(
            f"there is no known configuration to roll back pipeline {pipeline.name!r} to",
            hint=f"`ipa history {pipeline.name}` lists its changes; `ipa apply` takes a plan.",
        )
    return configs


def _last_that_stayed(applied: Sequence[Decision]) -> Decision | None:
    """The newest of these (newest first) that was not rolled back: a failed change is no target."""
    was_taken_back = False
    for decision in applied:
        if decision.reason is ReasonCode.ROLLBACK:
            was_taken_back = True
        elif was_taken_back:
            was_taken_back = False
        else:
            return decision
    return None


def _check_revision(service: Service, pipeline: Pipeline, expected: Precondition) -> None:
    expected.check(live_of(service, pipeline.name).revision, f"pipeline {pipeline.name}")
