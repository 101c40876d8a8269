"""The decisions of a pipeline, newest first, the record, and the replay of decisions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from anyio import to_thread
from pydantic import TypeAdapter

from ipa.control.audit.record import Head
from ipa.control.audit.replay import ReplayResult
from ipa.control.ports import DecisionLog
from ipa.model.access import Operation
from ipa.model.decision import Decision
from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Pipeline
from ipa.policies.registry import POLICIES
from ipa.service.service import Service
from ipa.service.visibility import Caller

# A decision as the API writes it. The store's own text of it is canonical, for its digest.
DECISION = TypeAdapter(Decision)
# Decisions of one tick share its number; a page that starts amid them reads this many more to find its place.
SAME_TICK = 16
# Decisions that are read at once; with its inputs one is some tens of kilobytes.
READ_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class DecisionPage:
    """Decisions, newest first. `next_before` is the `before` of the next page; null on the last page."""

    decisions: tuple[Decision, ...]
    next_before: str | None


@dataclass(frozen=True, slots=True)
class RecordView:
    """The size of a verified record, with every entry as written. `head` names the newest: NUMBER:DIGEST.

    A head that is kept elsewhere shows later if entries at the end were cut off or all were rewritten.
    """

    pipeline: str
    decisions: int
    entries: int
    head: str
    # Holds that retention removed, and checkpoints whose signature there was no key to check with.
    removed: int = 0
    unchecked: int = 0


def verify(service: Service, pipeline: str, anchor: Head | None) -> RecordView:
    """Recompute the digests of the pipeline's record; RecordError names the first entry that was changed."""
    verified = service.verify(service.record_of(pipeline), anchor)
    head = str(verified.head)
    return RecordView(
        pipeline, verified.decisions, verified.entries, head, verified.removed, verified.unchecked
    )


def decision(service: Service, decision_id: str) -> tuple[Decision, dict[str, str]]:
    """The decision, and the ids of the decisions right before ("prev") and after ("next") it, if any."""
    decision = service.log.decision(decision_id)
    around = service.log.decisions(decision.pipeline, limit=2 * SAME_TICK, before_tick=decision.tick + 2)
    ids = [each.decision_id for each in around]
    if decision.decision_id not in ids:
        return decision, {}
    at = ids.index(decision.decision_id)
    near = {"prev": ids[at + 1 : at + 2], "next": ids[at - 1 : at] if at else []}
    return decision, {name: each[0] for name, each in near.items() if each}


def newest_first(
    log: DecisionLog, pipeline: str, before: str | None, most: int, *, applied_only: bool
) -> Iterator[Decision]:
    """Yield up to `most` decisions before that one, newest first, read in batches.

    NotFoundError for an unknown `before`.
    """
    last = None if before is None else log.decision(before)
    left = most
    while left:
        limit = min(left, READ_AT_ONCE)
        if last is None:
            page = log.decisions(pipeline, limit=limit, applied_only=applied_only)
        else:
            tick, limit = last.tick + 1, limit + SAME_TICK
            page = log.decisions(pipeline, limit=limit, before_tick=tick, applied_only=applied_only)
            ids = [each.decision_id for each in page]
            if last.decision_id in ids:
                page = page[ids.index(last.decision_id) + 1 :]
            else:
                page = [each for each in page if each.tick < last.tick]
        for last in page[:left]:
            left -= 1
            yield last
        if not page:
            return


async def replay(
    caller: Caller,
    decision_id: str,
    policy: str | None,
    place: AbstractAsyncContextManager[None],
    *,
    certifies: bool = False,
) -> ReplayResult:
    """Replay the decision in a thread, by `policy` or its own policy, after entering `place`.

    Errors: NotFoundError, ForbiddenError, InputError (no such policy), UsageError (the policy cannot plan the
    pipeline), RecordError, DeadlineError.
    """
    decision, pipeline = await to_thread.run_sync(_recorded, caller, decision_id, policy)
    profiles = caller.service.profiles(pipeline.name)
    async with place:
        replayer = caller.service.replayer
        return await to_thread.run_sync(replayer, decision, pipeline, profiles, policy, certifies)


def _recorded(caller: Caller, decision_id: str, policy: str | None) -> tuple[Decision, Pipeline]:
    """The decision and its pipeline, checked that the caller may ask what-ifs; InputError: no such policy."""
    decision = caller.service.log.decision(decision_id)
    pipeline = caller.service.pipeline(decision.pipeline.partition("@")[0])
    caller.must(Operation.WHAT_IF, pipeline.namespace)
    if policy is not None and not POLICIES.is_known(policy):
        message = f"there is no policy {policy!r}. {POLICIES.known(policy)}"
        raise InputError("that policy cannot replay this", problems=[Problem(message, pointer="/policy")])
    return decision, pipeline
