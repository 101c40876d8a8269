"""Requests that are carried out once, however often they are sent: by their idempotency keys."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ipa.control.canonical import canonical_json, digest
from ipa.control.idempotency import AnswerStore, IdempotencyClaim, StoredAnswer
from ipa.control.ports import Clock
from ipa.model.errors import InProgressError, InputError, IpaError, Problem

LOG = logging.getLogger(__name__)
# This run of the service: what another one left unfinished is not waited for.
_HOLDER = uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class IdempotentAnswer:
    """The answer to a request; `is_replayed` if an earlier one with the same key was answered with it."""

    answer: StoredAnswer
    is_replayed: bool


def request_digest(*parts: Any) -> str:
    """The digest of all that makes a request another one."""
    return digest(canonical_json(parts))


def once(
    answers: AnswerStore,
    clock: Clock,
    key: str,
    asked: str,
    act: Callable[[IdempotencyClaim], StoredAnswer],
    record: str = "",
) -> IdempotentAnswer:
    """Return the answer of `act`, which is called once for the key, or the answer that is kept under it.

    InputError (422): the key came with another request before. InProgressError (409): that is under way.
    If `act` raises nothing happened, and the key may be used again. The claim tells it whether an earlier
    run of the service may have carried out the request already. The answer is forgotten with the `record`.
    """
    claim = answers.claim(key, asked, _HOLDER, clock.now().timestamp(), record)
    if claim.request_digest != asked:
        problem = Problem("it came with another request before; take a new one")
        raise InputError("the Idempotency-Key belongs to another request", problems=[problem])
    if claim.answer is not None:
        return IdempotentAnswer(claim.answer, is_replayed=True)
    if not claim.mine:
        raise InProgressError("the request with this Idempotency-Key is being carried out")
    try:
        answer = act(claim)
    except BaseException:
        _tried(lambda: answers.release(key))
        raise
    _tried(lambda: answers.settle(key, answer))
    return IdempotentAnswer(answer, is_replayed=False)


def _tried(write: Callable[[], None]) -> None:
    """Write, or log why not: the answer stands, and the key is found unfinished and looked into later."""
    try:
        write()
    except IpaError as error:
        LOG.warning("the answer to a request is not kept under its key: %s", error.message)
