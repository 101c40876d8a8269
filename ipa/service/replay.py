"""Replay: take a recorded decision again from its inputs."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from anyio import to_thread

from ipa.control.audit.replay import ReplayResult
from ipa.model.access import Operation
from ipa.model.decision import Decision
from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Pipeline
from ipa.policies.registry import POLICIES
from ipa.service.visibility import Caller


async def replay_decision(
    caller: Caller, decision_id: str, policy: str | None, place: AbstractAsyncContextManager[None]
) -> ReplayResult:
    """Replay a decision as `replay` does, in threads; the computation waits for the `place`."""
    decision, pipeline = await to_thread.run_sync(_recorded, caller, decision_id, policy)
    profiles = caller.service.profiles(pipeline.name)
    async with place:
        return await to_thread.run_sync(caller.service.replayer, decision, pipeline, profiles, policy)


def replay(caller: Caller, decision_id: str, policy: str | None) -> ReplayResult:
    """Take the decision again, by `policy` or the one that took it.

    Errors: NotFoundError, ForbiddenError, InputError (no such policy), UsageError (the policy cannot have
    the pipeline), RecordError, DeadlineError.
    """
    decision, pipeline = _recorded(caller, decision_id, policy)
    service = caller.service
    return service.replayer(decision, pipeline, service.profiles(pipeline.name), policy)


def _recorded(caller: Caller, decision_id: str, policy: str | None) -> tuple[Decision, Pipeline]:
    """The decision and its pipeline, for which the caller may ask what-ifs; InputError for no policy."""
    decision = caller.service.log.decision(decision_id)
    pipeline = caller.service.pipeline(decision.pipeline.partition("@")[0])
    caller.must(Operation.WHAT_IF, pipeline.namespace)
    if policy is not None and not POLICIES.is_known(policy):
        message = f"there is no policy {policy!r}. {POLICIES.known(policy)}"
        raise InputError("it cannot be taken again so", problems=[Problem(message, pointer="/policy")])
    return decision, pipeline
