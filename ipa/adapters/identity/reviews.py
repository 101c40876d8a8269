"""Authentication by a cluster's TokenReview, and authorization by its SubjectAccessReview."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ACCESS_REVIEW, TOKEN_REVIEW, ResourceKind
from ipa.adapters.store.state import PREFIX
from ipa.adapters.ttl_cache import Bulkhead, TtlCache
from ipa.control.ports import Clock
from ipa.model.access import EVERYWHERE, Identity, Operation, name_fault
from ipa.model.errors import ForbiddenError, InputError, NotFoundError, UnavailableError
from ipa.model.pipeline import Pipeline

LOG = logging.getLogger(__name__)
# A read may use a review of this age. Writes always ask.
KEEP_S = 60.0
# A review takes some milliseconds. A caller waits no longer; this many may wait, each with a thread.
DEADLINE_S = 3.0
MOST_WAITING = 6
# The verb on the workload's objects that each operation needs: a user has the same rights as with kubectl.
VERBS: Mapping[Operation, str] = {
    Operation.READ: "get",
    Operation.WHAT_IF: "get",
    Operation.CONTROL: "patch",
    Operation.APPLY: "patch",
    Operation.DEFINE: "create",
    Operation.REPLACE: "update",
    Operation.REMOVE: "delete",
    Operation.OPERATE: "patch",
}
# The verbs that a role may restrict to objects by name.
BY_NAME = frozenset({"update", "patch", "delete"})


Places = Callable[[Pipeline], Sequence[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class _User:
    """A user of the cluster."""

    username: str
    uid: str
    groups: tuple[str, ...]
    extra: tuple[tuple[str, tuple[str, ...]], ...]


class KubeIdentities:
    """Authentication by the cluster, and authorization by its rights on objects of one kind.

    `places` returns the namespace and name of each object of a pipeline. Tokens must be made for `audience`;
    empty for the API server's own.
    """

    def __init__(
        self, client: KubeClient, clock: Clock, kind: ResourceKind, places: Places, audience: str = ""
    ) -> None:
        self._kind, self._places = kind, places
        self._client, self._audience = client.within(min(client.timeout_s, DEADLINE_S)), audience
        waiting = Bulkhead(MOST_WAITING, "the cluster")
        now_s, place = clock.monotonic_s, waiting.place
        self._users: TtlCache[_User | None] = TtlCache(KEEP_S, now_s, keeps_errors=False, place=place)
        self._rights: TtlCache[bool] = TtlCache(KEEP_S, now_s, keeps_errors=False, place=place)

    def takes(self, token: str) -> bool:
        """True unless the token is an API key: the cluster may accept any other form."""
        return bool(token) and not token.startswith(PREFIX)

    def identify(self, token: str, *, fresh: bool, within_s: float = KEEP_S) -> Identity | None:
        """Return the token's user; None if the cluster rejects it. UnavailableError: no answer.

        With `fresh` the cluster is asked now, else its answer may be `within_s` old.
        """
        within_s = 0.0 if fresh else within_s
        # The cache keeps a digest: a token could be read from a memory dump and used.
        question = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        user, _ = self._users.get(question, lambda: self._review(token), within_s)
        return _Reviewed(user, self._may, within_s) if user else None

    def _review(self, token: str) -> _User | None:
        spec: dict[str, Any] = {"token": token}
        if self._audience:
            spec["audiences"] = [self._audience]
        status = _status(lambda: self._client.review(TOKEN_REVIEW, spec))
        if status.get("authenticated") is not True:
            return None
        # An authenticator without audiences returns none, and accepts tokens that are meant for others.
        if self._audience and self._audience not in (status.get("audiences") or ()):
            LOG.info("refused: the cluster did not check the token's audience")
            return None
        user = status.get("user")
        if not isinstance(user, Mapping) or name_fault(user.get("username")):
            return None
        return _User(
            str(user["username"]),
            str(user.get("uid") or ""),
            tuple(str(group) for group in user.get("groups") or ()),
            tuple((str(key), tuple(map(str, values))) for key, values in (user.get("extra") or {}).items()),
        )

    def _may(
        self, user: _User, operation: Operation, namespace: str, pipeline: Pipeline | None, within_s: float
    ) -> bool:
        verb = VERBS[operation]

        def may(name: str) -> bool:
            question = (user, verb, namespace, name)
            return self._rights.get(question, lambda: self._is_allowed(*question), within_s)[0]

        # Reads are of all objects: what someone sees of a namespace is asked once, not once a pipeline. What
        # is only to be created has no name yet. A role may be restricted to some names; "" stands for all.
        by_name = self._places(pipeline) if verb in BY_NAME and pipeline is not None else []
        return all(may(name) for name in [name for _, name in by_name] or [""])

    def _is_allowed(self, user: _User, verb: str, namespace: str, name: str) -> bool:
        kind = self._kind
        wanted = {"group": kind.group, "version": kind.version, "resource": kind.plural, "verb": verb}
        # Without a namespace the review is for all of them.
        if namespace != EVERYWHERE:
            wanted["namespace"] = namespace
        if name:
            wanted["name"] = name
        spec = {
            "user": user.username,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": {key: list(values) for key, values in user.extra},
            "resourceAttributes": wanted,
        }
        status = _status(lambda: self._client.review(ACCESS_REVIEW, spec))
        return status.get("allowed") is True and status.get("denied") is not True


@dataclass(frozen=True, slots=True)
class _Reviewed:
    """A user of the cluster, whose rights the cluster reviews."""

    user: _User
    ask: Callable[[_User, Operation, str, Pipeline | None, float], bool]
    within_s: float

    @property
    def name(self) -> str:
        """The name in the record: the user's name, marked as the cluster's."""
        return f"kubernetes:{self.user.username}"

    def may(self, operation: Operation, namespace: str, pipeline: Pipeline | None = None) -> bool:
        """True if the cluster allows the operation's verb on the objects there, or on the pipeline's."""
        # Filters of visible pipelines may use an older review, also in a request that writes.
        within_s = self.within_s if self.within_s > 0.0 or operation.writes else KEEP_S
        return self.ask(self.user, operation, namespace, pipeline, within_s)


def _status(ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """The status of the review. UnavailableError: no answer, or the service may not create reviews."""
    try:
        return ask()
    except (ForbiddenError, InputError, NotFoundError) as error:
        LOG.warning("the cluster refused to review a caller: %s", error.message)
        raise UnavailableError(
            "the cluster does not let the service review callers",
            hint="The service's account needs deploy/rbac/reviewer.yaml.",
        ) from error
