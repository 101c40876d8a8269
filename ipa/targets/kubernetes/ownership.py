"""Which install of the service an object belongs to, so that two never fight over one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ObjectRef, ResourceKind
from ipa.adapters.kube.responses import Json
from ipa.model.errors import READ_AGAIN, ConflictError, DriftError, NotFoundError, Problem
from ipa.targets.kubernetes.layout import Layout, Operation

ANNOTATION = "ipa-serving/install"
POINTER = "/metadata/annotations"
VERSION, UID, GENERATION = (f"/metadata/{key}" for key in ("resourceVersion", "uid", "generation"))
# A claim is bound to the resourceVersion, which each write of the status moves: so often it is tried.
CLAIM_TRIES = 10


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


class OwningClient(KubeClient):
    """A client that reads what is free or its install's own, and claims what it writes.

    Every call about an object of the owned kind of another install raises DriftError.
    """

    def __init__(self, client: KubeClient, install: str, kind: ResourceKind) -> None:
        super().__init__(client.transport, client.timeout_s)
        self._install, self._kind = install, kind
        # Each object as it was last read.
        self._read: dict[tuple[str, str], Json] = {}

    def within(self, timeout_s: float) -> OwningClient:
        """The same client with another deadline. Closing either closes both."""
        return OwningClient(super().within(timeout_s), self._install, self._kind)

    def get(self, kind: ResourceKind, namespace: str, name: str) -> Json:
        """The object of that name."""
        found = super().get(kind, namespace, name)
        if kind != self._kind:
            return found
        check_owner(found, self._install)
        return self._remembered(found)

    def create(self, kind: ResourceKind, namespace: str, body: Json, *, dry_run: bool = False) -> Json:
        """The object as created; one of the owned kind is the install's."""
        if kind != self._kind:
            return super().create(kind, namespace, body, dry_run=dry_run)
        metadata = body["metadata"]
        annotations = {**(metadata.get("annotations") or {}), ANNOTATION: self._install}
        owned = {**body, "metadata": {**metadata, "annotations": annotations}}
        created = super().create(kind, namespace, owned, dry_run=dry_run)
        return created if dry_run else self._remembered(created)

    def patch(
        self,
        kind: ResourceKind,
        namespace: str,
        name: str,
        patch: Sequence[Mapping[str, Any]],
        *,
        dry_run: bool = False,
    ) -> Json:
        """The object after the JSON Patch; one to be owned is claimed, its generation to be tested by it."""
        if kind != self._kind:
            return super().patch(kind, namespace, name, patch, dry_run=dry_run)
        read = self._read.get((namespace, name))
        for _ in range(CLAIM_TRIES):
            if read is None or not _is_of(patch, read):
                read = self.get(kind, namespace, name)
            if not _is_of(patch, read):
                break
            try:
                operations = [*patch, *claim(read, self._install)]
                patched = super().patch(kind, namespace, name, operations, dry_run=dry_run)
            except ConflictError:
                if owner_of(read) == self._install:
                    raise
                # Perhaps a status write alone: is it free as before?
                read = self.get(kind, namespace, name)
            else:
                return patched if dry_run else self._remembered(patched)
        ref = ObjectRef(kind, namespace, name)
        raise ConflictError(f"{ref}: was changed since it was read", hint=READ_AGAIN)

    def _remembered(self, found: Json) -> Json:
        metadata = found["metadata"]
        self._read[metadata.get("namespace", ""), metadata["name"]] = found
        return found


def _is_of(patch: Sequence[Mapping[str, Any]], found: Json) -> bool:
    """True if the patch is for that generation of the object."""
    tested = {one["path"]: one["value"] for one in patch if one["op"] == "test"}
    metadata = found["metadata"]
    return (tested.get(UID), tested.get(GENERATION)) == (metadata["uid"], metadata["generation"])


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
