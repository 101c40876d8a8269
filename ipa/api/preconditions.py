"""Entity tags: what a change was made for (If-Match), and what a reader has already (If-None-Match)."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header
from starlette.exceptions import HTTPException

# A strong tag. A weak one says "much the same", which is not enough to overwrite something.
_TAG = re.compile(r'(W/)?"[^"]*"')
IfMatch = Annotated[str | None, Header(description="required: the ETag of what the change was made for")]
IfNoneMatch = Annotated[str | None, Header(description="the ETag of what is known; 304 where it still holds")]
# Header parameters that must be there; they are declared as optional since their absence has its own status.
REQUIRED = frozenset({"if-match", "idempotency-key"})


def etag(revision: str) -> str:
    """The entity tag of a revision."""
    return '"' + revision.replace('"', "") + '"'


def check_given(if_match: str | None, what: str) -> str:
    """The header; 428 where it is absent or names no revision (`*`), which would overwrite anything."""
    if if_match is None or not if_match.strip():
        raise HTTPException(428, f"If-Match is required: send the ETag that {what} was read with")
    if if_match.strip() == "*":
        raise HTTPException(428, f"If-Match: * names no revision; send the ETag that {what} was read with")
    return if_match


def check_match(if_match: str | None, now: str, what: str) -> None:
    """Return where the header names the tag; 428 where it is absent, 412 where it names another."""
    given = check_given(if_match, what)
    if now not in [found[0] for found in _TAG.finditer(given)]:
        raise HTTPException(412, f"{what} is at {now}, not {given}; read it again")


def is_known(if_none_match: str | None, now: str) -> bool:
    """Whether the reader has it already. Reading may go by weak tags."""
    if if_none_match is None:
        return False
    tags = {found[0].removeprefix("W/") for found in _TAG.finditer(if_none_match)}
    return if_none_match.strip() == "*" or now in tags
