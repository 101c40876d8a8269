"""Which install of the service an object belongs to, so that two never fight over one."""

from __future__ import annotations

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.responses import Json
from ipa.model.errors import DriftError, NotFoundError, Problem
from ipa.targets.kubernetes.layout import Layout, Operation

ANNOTATION = "ipa-serving/install"
POINTER = "/metadata/annotations"
VERSION, UID = "/metadata/resourceVersion", "/metadata/uid"


def owner_of(found: Json) -> str | None:
    """The install that claimed it, None where none has."""
    owner = (found["metadata"].get("annotations") or {}).get(ANNOTATION)
    return None if owner is None else str(owner)


def claim(found: Json, install: str) -> list[Operation]:
    """Addition to a patch that claims the object for the install, or tests that it still is the install's.

    It touches metadata alone, so no pod is restarted by it. A claim is for this version of the object: that
    there is no annotation cannot be tested otherwise.
    """
    if owner_of(found) == install:
        return [{"op": "test", "path": _key(), "value": install}]
    version = {"op": "test", "path": VERSION, "value": found["metadata"]["resourceVersion"]}
    if found["metadata"].get("annotations") is None:
        return [version, {"op": "add", "path": POINTER, "value": {ANNOTATION: install}}]
    return [version, {"op": "add", "path": _key(), "value": install}]


def release(found: Json, install: str) -> list[Operation]:
    """The patch that gives it up; empty where nobody owns it. DriftError where another install does."""
    check_owner(found, install)
    if owner_of(found) is None:
        return []
    return [
        {"op": "test", "path": UID, "value": found["metadata"]["uid"]},
        {"op": "test", "path": _key(), "value": install},
        {"op": "remove", "path": _key()},
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


def _key() -> str:
    return f"{POINTER}/{ANNOTATION.replace('/', '~1')}"
