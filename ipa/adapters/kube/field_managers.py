"""The last field manager beside us that changed an object, as far as the API server keeps it."""

from __future__ import annotations

from ipa.adapters.kube.responses import Json
from ipa.model.errors import DriftError, Problem

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


def with_hand(error: DriftError, found: Json) -> DriftError:
    """The same error with a problem that names the last field manager."""
    who = last_hand(found)
    if not who:
        return error
    said = Problem(f"its spec was last changed by {who}")
    return DriftError(error.message, hint=error.hint, problems=[*error.problems, said])
