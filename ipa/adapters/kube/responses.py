"""Responses of the API server: the requested object, or an error of ours that quotes no body."""

from __future__ import annotations

import json
from typing import Any

from ipa.model.errors import (
    ConflictError,
    ForbiddenError,
    InputError,
    IpaError,
    NotFoundError,
    UnavailableError,
)

# Enough of a webhook's refusal to act on.
LONGEST_MESSAGE = 400

Json = dict[str, Any]


class ExpiredError(UnavailableError):
    """The resourceVersion or continue token is too old (410): list again from the start."""


def object_of(what: str, kind: str, body: bytes) -> Json:
    """The object of that kind; UnavailableError where the answer is anything else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise UnavailableError(f"{what}: the answer is not JSON") from None
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise UnavailableError(f"{what}: the answer is not a {kind}")
    if not isinstance(found.get("metadata"), dict):
        raise UnavailableError(f"{what}: the answer has no metadata")
    return found


def error_of(what: str, status: int, body: bytes) -> IpaError:
    """The error that a status other than 2xx means."""
    found = _status_of(body)
    message = str(found.get("message", ""))[:LONGEST_MESSAGE]
    match status:
        case 400 | 422 if not _is_failed_patch(status, found):
            return InputError(f"{what}: refused by the cluster: {message or 'no reason given'}")
        case 409 | 422:
            return ConflictError(
                f"{what}: was changed since it was read", hint="Read the current state and plan again."
            )
        case 401 | 403:
            return ForbiddenError(
                f"{what}: not allowed ({status})", hint="Check the service account's role (deploy/rbac)."
            )
        case 404:
            return NotFoundError(f"{what}: does not exist")
        case 410:
            return ExpiredError(f"{what}: the version asked for is too old")
        case _:
            return UnavailableError(f"{what}: the API server answered {status}")


def _status_of(body: bytes) -> Json:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}


def _is_failed_patch(status: int, found: Json) -> bool:
    """True if a 422 means that a `test` failed: the server then names neither an object nor a cause."""
    details = found.get("details")
    details = details if isinstance(details, dict) else {}
    named = bool(details.get("causes") or details.get("name"))
    return status == 422 and not named and "admission webhook" not in str(found.get("message", ""))
