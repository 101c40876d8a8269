"""Reads that are older than what we have seen already: a cache on the way may give them."""

from __future__ import annotations

from ipa.adapters.kube.responses import Json
from ipa.model.errors import UnavailableError


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
            raise UnavailableError(
                f"{thing['kind']} {metadata['namespace']}/{metadata['name']}: the answer is older "
                f"(generation {generation}) than one read before ({newest})"
            )
        self._seen[uid] = generation
        return thing
