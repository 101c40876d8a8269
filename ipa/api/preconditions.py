"""The headers of conditional requests: If-Match, If-None-Match and Idempotency-Key."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header
from starlette.exceptions import HTTPException

from ipa.model.errors import InputError, Problem
from ipa.service.preconditions import Precondition, plain_version

# A strong tag. A weak one means "equivalent", which is not enough to overwrite something.
_TAG = re.compile(r'(W/)?"[^"]*"')
IfMatch = Annotated[str | None, Header(description="required: the ETag of the state that the change is for")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        description="required: a new text for each change, such as a UUID; repeated, it repeats the answer"
    ),
]
LONGEST_KEY = 255
IfNoneMatch = Annotated[str | None, Header(description="the ETag of the last answer; 304 if it is current")]
# Required headers; they are declared as optional, since their absence has its own status.
REQUIRED = frozenset({"if-match", "idempotency-key"})


def etag(revision: str) -> str:
    """The entity tag of a revision."""
    return f'"{plain_version(revision)}"'


def required_match(if_match: str | None, what: str) -> Precondition:
    """The precondition of the header; 428 if it is absent or names no revision (`*` overwrites anything)."""
    if if_match is None or not if_match.strip():
        raise HTTPException(428, f"If-Match is required: send the ETag that {what} was read with")
    if if_match.strip() == "*":
        raise HTTPException(428, f"If-Match: * names no revision; send the ETag that {what} was read with")
    tags = [found[0] for found in _TAG.finditer(if_match)]
    return Precondition(frozenset(tag[1:-1] for tag in tags if tag.startswith('"')), if_match)


def check_key(key: str | None) -> str:
    """The key; 400 if it is absent, InputError if it is not visible ASCII of at most 255 characters."""
    if key is None or not key.strip():
        raise HTTPException(400, "Idempotency-Key is required: a new text for each change, such as a UUID")
    if len(key) > LONGEST_KEY or not (key.isascii() and key.isprintable()):
        problem = Problem(f"Idempotency-Key must be at most {LONGEST_KEY} visible ASCII characters")
        raise InputError("the request's key cannot be used", problems=[problem])
    return key


def is_known(if_none_match: str | None, now: str) -> bool:
    """True if the client has the version already. Weak tags count for reads."""
    if if_none_match is None:
        return False
    tags = {found[0].removeprefix("W/") for found in _TAG.finditer(if_none_match)}
    return if_none_match.strip() == "*" or now in tags
