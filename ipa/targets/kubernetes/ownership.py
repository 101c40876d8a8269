"""The metadata of an object: the install that it belongs to, its revision, and its last writer.

An object is one install's, so that two never fight over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.transport import Json
from ipa.model.errors import DriftError, NotFoundError, Problem
from ipa.targets.kubernetes.layout import Layout, Operation, at

ANNOTATION = "ipa-serving/install"
POINTER = "/metadata/annotations"
KEY = f"{POINTER}/{ANNOTATION.replace('/', '~1')}"
VERSION, UID = "/metadata/resourceVersion", "/metadata/uid"
OURS = "ipa-serving"
# The digits of a digest of uids: enough that objects made anew never have those of before.
UIDS = 12


def owner_of(found: Json) -> str | None:
    """The install that claimed it, None where none has."""
    owner = at(found, "metadata", "annotations", ANNOTATION)
    return None if owner is None else str(owner)


def claim(found: Json, install: str) -> list[Operation]:
    """Addition to a patch that claims the object for the install, or tests that it still is the install's.

    It touches metadata alone, so no pod is restarted by it. A claim is for this version of the object: that
    there is no annotation cannot be tested otherwise.
    """
    if owner_of(found) == install:
        return [{"op": "test", "path": KEY, "value": install}]
    version = {"op": "test", "path": VERSION, "value": found["metadata"]["resourceVersion"]}
    if found["metadata"].get("annotations") is None:
        return [version, {"op": "add", "path": POINTER, "value": {ANNOTATION: install}}]
    return [version, {"op": "add", "path": KEY, "value": install}]


def release(found: Json, install: str) -> list[Operation]:
    """The patch that gives it up; empty where nobody owns it. DriftError where another install does."""
    check_owner(found, install)
    if owner_of(found) is None:
        return []
    return [
        {"op": "test", "path": UID, "value": found["metadata"]["uid"]},
        {"op": "test", "path": KEY, "value": install},
        {"op": "remove", "path": KEY},
    ]


def check_owner(found: Json, install: str) -> None:
    """DriftError, naming the owner, where another install has claimed it."""
    owner = owner_of(found)
    if owner in (None, install):
        return
    metadata = found["metadata"]
    name = f"{metadata.get('namespace', '')}/{metadata['name']}"
    raise DriftError(
        f"{found['kind']} {name} belongs to install {owner!r}; this is install {install!r}",
        problems=[Problem(f"annotation {ANNOTATION} is {owner!r}")],
        hint="Stop the other install and run `ipa release` with its IPA_INSTALL, or leave it in control.",
    )


def claimed(body: Json, install: str) -> Json:
    """The body of a new object, as the install's own."""
    metadata = body["metadata"]
    annotations = {**(metadata.get("annotations") or {}), ANNOTATION: install}
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def release_all(client: KubeClient, layout: Layout, install: str) -> list[str]:
    """Give up every object of the pipeline; the names of those that were the install's.

    DriftError where one belongs to another install: nothing is given up then. NotFoundError: none is there.
    """
    patches: dict[str, list[Operation]] = {}
    missing: NotFoundError | None = None
    for name in layout.names:
        try:
            patches[name] = release(client.get(layout.kind, layout.namespace, name), install)
        except NotFoundError as error:
            missing = error
    if missing is not None and not patches:
        raise missing
    owned = {name: patch for name, patch in patches.items() if patch}
    for name, patch in owned.items():
        client.patch(layout.kind, layout.namespace, name, patch)
    return list(owned)


def revision_of(objects: Sequence[Json]) -> str:
    """Revision that a decision is bound to: the objects, then `/` and the versions of their specs.

    Of several the uids are a digest. Not the resourceVersion, which moves with every status an operator
    writes while nothing of what was decided on has changed. A patch tests uid and generation.
    """
    uids = [str(each["metadata"]["uid"]) for each in objects]
    identity = uids[0] if len(uids) == 1 else sha256(".".join(uids).encode()).hexdigest()[:UIDS]
    return f"{identity}/{'.'.join(str(each['metadata']['generation']) for each in objects)}"


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
