"""Requests that are carried out once, however often they are sent: by their Idempotency-Key."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Header
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ipa.control.canonical import canonical_json, digest
from ipa.control.idempotency import AnswerStore, IdempotencyClaim, StoredAnswer
from ipa.control.ports import Clock
from ipa.model.errors import InProgressError, InputError, IpaError, Problem

LOG = logging.getLogger(__name__)
LONGEST_KEY = 255
IdempotencyKey = Annotated[
    str | None,
    Header(
        description="required: a text new for each change, as a UUID; with the same again the same answer"
    ),
]
# This run of the service: what another one left unfinished is not waited for.
_HOLDER = uuid.uuid4().hex


def check_key(key: str | None) -> str:
    """The key; 400 where it is absent, InputError where it is no visible ASCII of at most 255 characters."""
    if key is None or not key.strip():
        raise HTTPException(400, "Idempotency-Key is required: any text new for each change, as a UUID")
    if len(key) > LONGEST_KEY or not (key.isascii() and key.isprintable()):
        problem = Problem(f"Idempotency-Key must be at most {LONGEST_KEY} visible ASCII characters")
        raise InputError("the request's key cannot be used", problems=[problem])
    return key


def mark_of(*parts: Any) -> str:
    """The digest of what makes a request another one."""
    return digest(canonical_json(parts))


def once(
    answers: AnswerStore,
    clock: Clock,
    key: str,
    request_digest: str,
    act: Callable[[IdempotencyClaim], StoredAnswer],
    record: str = "",
) -> Response:
    """What `act` answers, once for the key: the same answer again where it was carried out before.

    InputError (422): the key came with another request before. InProgressError (409): that is under way.
    Where `act` raises nothing happened, and the key may be used again. It is told by the claim whether an
    earlier run of the service may have carried it out already. The answer is forgotten with the `record`.
    """
    claim = answers.claim(key, request_digest, _HOLDER, clock.now().timestamp(), record)
    if claim.request_digest != request_digest:
        problem = Problem("it came with another request before; take a new one")
        raise InputError("the Idempotency-Key belongs to another request", problems=[problem])
    if claim.answer is not None:
        return _response(claim.answer, is_replay=True)
    if not claim.mine:
        raise InProgressError("the request with this Idempotency-Key is being carried out")
    try:
        answer = act(claim)
    except BaseException:
        _tried(lambda: answers.release(key))
        raise
    _tried(lambda: answers.settle(key, answer))
    return _response(answer, is_replay=False)


def _response(answer: StoredAnswer, *, is_replay: bool) -> Response:
    headers = {"Idempotency-Replayed": "true"} if is_replay else {}
    return Response(answer.body, answer.status, headers, "application/json")


def _tried(write: Callable[[], None]) -> None:
    """Where that fails the answer stands nevertheless; the key is found unfinished and looked into later."""
    try:
        write()
    except IpaError as error:
        LOG.warning("the answer to a request is not kept under its key: %s", error.message)
