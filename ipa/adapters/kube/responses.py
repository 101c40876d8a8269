"""Responses of the API server: the object, or an error of ours that quotes no body; what its metadata say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from ipa.model import errors

# Enough of a webhook's refusal to act on.
LONGEST_MESSAGE = 400

Json = dict[str, Any]
# The digits of a digest of uids: enough that objects made anew never have those of before.
UIDS = 12


class ExpiredError(errors.UnavailableError):
    """The resourceVersion or continue token is too old (410): list again from the start."""


def json_of(what: str, body: bytes) -> Json:
    """The JSON object; UnavailableError where the answer is anything else."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise errors.UnavailableError(f"{what}: the answer is not a JSON object")
    return found


def object_of(what: str, kind: str, body: bytes) -> Json:
    """The object of that kind; UnavailableError where the answer is anything else."""
    found = json_of(what, body)
    if found.get("kind") != kind or not isinstance(found.get("metadata"), dict):
        raise errors.UnavailableError(f"{what}: the answer is not a {kind}")
    return found


def error_of(what: str, status: int, body: bytes) -> errors.IpaError:
    """The error that a status other than 2xx means."""
    try:
        found = json_of(what, body)
    except errors.UnavailableError:
        found = {}
    if found.get("kind") != "Status":
        found = {}
    message = str(found.get("message", ""))[:LONGEST_MESSAGE]
    match status:
        case 400 | 422 if not _is_failed_patch(status, found):
            return errors.InputError(f"{what}: refused by the cluster: {message or 'no reason given'}")
        case 409 | 422:
            return errors.ConflictError(f"{what}: was changed since it was read", hint=errors.READ_AGAIN)
        case 401 | 403:
            return errors.ForbiddenError(
                f"{what}: not allowed ({status})", hint="Check the service account's role (deploy/rbac)."
            )
        case 404:
            return errors.NotFoundError(f"{what}: does not exist")
        case 410:
            return ExpiredError(f"{what}: the version asked for is too old")
        case _:
            return errors.UnavailableError(f"{what}: the API server answered {status}")


def _is_failed_patch(status: int, found: Json) -> bool:
    """True if a 422 means that a `test` failed: the server then names neither an object nor a cause."""
    details = found.get("details")
    details = details if isinstance(details, dict) else {}
    named = bool(details.get("causes") or details.get("name"))
    return status == 422 and not named and "admission webhook" not in str(found.get("message", ""))


class MonotonicReads:
    """The newest generation seen of each object. A generation grows with every change of the spec."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def seen(self, thing: Json) -> Json:
        """The object; UnavailableError where a newer one of the same uid was seen before."""
        metadata = thing["metadata"]
        uid, generation = str(metadata["uid"]), int(metadata["generation"])
        newest = self._seen.get(uid, 0)
        if generation < newest:
            raise errors.UnavailableError(
                f"{thing['kind']} {metadata['namespace']}/{metadata['name']}: the answer is older "
                f"(generation {generation}) than one read before ({newest})"
            )
        self._seen[uid] = generation
        return thing


def revision_of(objects: Sequence[Json]) -> str:
    """Revision that a decision is bound to: the objects, then `/` and the versions of their specs.

    Of several the uids are a digest. Not the resourceVersion, which moves with every status an operator
    writes while nothing of what was decided on has changed. A patch tests uid and generation.
    """
    uids = [str(each["metadata"]["uid"]) for each in objects]
    identity = uids[0] if len(uids) == 1 else sha256(".".join(uids).encode()).hexdigest()[:UIDS]
    return f"{identity}/{'.'.join(str(each['metadata']['generation']) for each in objects)}"


OURS = "ipa-serving"


def last_hand(found: Json) -> str:
    """The field manager whose change of the spec is the newest, with its time; empty where that is us.

    Empty too where nothing is known: managers tell their own name, and may tell none.
    """
    changes = [
        (str(entry.get("time") or ""), str(entry.get("manager") or ""))
        for entry in found["metadata"].get("managedFields") or ()
        if isinstance(entry, dict)
        # Status is the operator's. A change by `kubectl scale` carries the subresource scale.
        and entry.get("subresource") != "status"
        and "f:spec" in (entry.get("fieldsV1") or {})
    ]
    if not changes:
        return ""
    time, manager = max(changes)
    return "" if manager in ("", OURS) else f"{manager} at {time}"


def with_hand(error: errors.DriftError, found: Json) -> errors.DriftError:
    """The same error with a problem that names the last field manager."""
    who = last_hand(found)
    if not who:
        return error
    said = errors.Problem(f"its spec was last changed by {who}")
    return errors.DriftError(error.message, hint=error.hint, problems=[*error.problems, said])
