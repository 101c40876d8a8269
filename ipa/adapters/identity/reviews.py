"""Identities by a cluster: it says whose a token is (TokenReview) and what they may (SubjectAccessReview)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipa.adapters.identity.bulkhead import Bulkhead
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ResourceKind
from ipa.adapters.store.keys import PREFIX
from ipa.adapters.ttl_cache import TtlCache
from ipa.control.ports import Clock
from ipa.model.access import EVERYWHERE, Identity, Operation, kubernetes_name, name_fault
from ipa.model.errors import ForbiddenError, InputError, NotFoundError, UnavailableError
from ipa.model.pipeline import Pipeline

LOG = logging.getLogger(__name__)
# So long a read may go by what the cluster said before. Writes always ask.
KEEP_S = 60.0
# A review takes some milliseconds. Who asks waits no longer, and only so many do, each with a thread.
DEADLINE_S = 3.0
MOST_WAITING = 6
# What one has to be allowed with the workload's objects for each operation: who may see or change them by
# kubectl may do so here.
VERBS: Mapping[Operation, str] = {
    Operation.READ: "get",
    Operation.WHAT_IF: "get",
    Operation.CONTROL: "patch",
    Operation.APPLY: "patch",
    Operation.DEFINE: "create",
    Operation.REPLACE: "update",
    Operation.AMEND: "patch",
    Operation.REMOVE: "delete",
    Operation.OPERATE: "patch",
}
# Those that a role may allow with some objects alone.
BY_NAME = frozenset({"update", "patch", "delete"})


Places = Callable[[Pipeline], Sequence[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class _User:
    """Someone as the cluster knows them."""

    username: str
    uid: str
    groups: tuple[str, ...]
    extra: tuple[tuple[str, tuple[str, ...]], ...]


class KubeIdentities:
    """Asks the cluster about rights on objects of that kind.

    `places` are the namespace and name of a pipeline's objects. `audience`: tokens must be made for it;
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
        """What is no key of ours: the cluster knows other forms than we do."""
        return bool(token) and not token.startswith(PREFIX)

    def identify(self, token: str, *, fresh: bool, within_s: float = KEEP_S) -> Identity | None:
        """Whose token it is; None where it is nobody's. UnavailableError where the cluster does not say.

        By what it said now if `fresh`, else at most `within_s` ago.
        """
        within_s = 0.0 if fresh else within_s
        # What is kept could be read in a dump of memory; a digest lets nobody in.
        question = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        user, _ = self._users.get(question, lambda: self._review(token), within_s)
        return _Reviewed(user, self._may, within_s) if user else None

    def _review(self, token: str) -> _User | None:
        spec: dict[str, Any] = {"token": token}
        if self._audience:
            spec["audiences"] = [self._audience]
        status = _asked(lambda: self._client.review_token(spec))
        if status.get("authenticated") is not True:
            return None
        # An authenticator that knows no audiences says none, and lets in what is meant for others.
        if self._audience and self._audience not in (status.get("audiences") or ()):
            LOG.info("refused: the cluster did not check the token's audience")
            return None
        return _user(status.get("user"))

    def _may(
        self, user: _User, operation: Operation, namespace: str, pipeline: Pipeline | None, within_s: float
    ) -> bool:
        verb = VERBS[operation]

        def may(name: str) -> bool:
            question = (user, verb, namespace, name)
            return self._rights.get(question, lambda: self._allowed(*question), within_s)[0]

        return all(may(name) for name in self._names(verb, pipeline))

    def _allowed(self, user: _User, verb: str, namespace: str, name: str) -> bool:
        kind = self._kind
        wanted = {"group": kind.group, "version": kind.version, "resource": kind.plural, "verb": verb}
        # Without a namespace it means every one.
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
        status = _asked(lambda: self._client.review_access(spec))
        return status.get("allowed") is True and status.get("denied") is not True

    def _names(self, verb: str, pipeline: Pipeline | None) -> tuple[str, ...]:
        """What to ask of by name, since a role may allow only these; "" is all there are.

        Reads are of all: what someone sees of a namespace is asked once, not once a pipeline. What is only to
        be created has no name yet.
        """
        known = self._places(pipeline) if verb in BY_NAME and pipeline is not None else []
        return tuple(name for _, name in known) or ("",)


@dataclass(frozen=True, slots=True)
class _Reviewed:
    """Someone whose rights the cluster knows."""

    user: _User
    ask: Callable[[_User, Operation, str, Pipeline | None, float], bool]
    within_s: float

    @property
    def name(self) -> str:
        """What is recorded: the user's name in the cluster, as the cluster's."""
        return kubernetes_name(self.user.username)

    def may(self, operation: Operation, namespace: str, pipeline: Pipeline | None = None) -> bool:
        """True if the cluster lets them do the like with the objects there, or with the pipeline's."""
        # What only shows what there is goes by what was said a while ago, also in a request that writes.
        within_s = self.within_s if self.within_s > 0.0 or operation.writes else KEEP_S
        return self.ask(self.user, operation, namespace, pipeline, within_s)


def _asked(ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """The status of the review. UnavailableError where there is none, also where we may not ask."""
    try:
        status = ask().get("status")
    except (ForbiddenError, InputError, NotFoundError) as error:
        LOG.warning("the cluster does not review who asks: %s", error.message)
        raise UnavailableError(
            "the cluster does not say who may do what",
            hint="The service's account needs deploy/rbac/reviewer.yaml.",
        ) from error
    if not isinstance(status, Mapping):
        raise UnavailableError("the cluster's review has no status")
    return status


def _user(found: Any) -> _User | None:
    user = found if isinstance(found, Mapping) else {}
    name = user.get("username")
    if name_fault(name):
        return None
    extra = user.get("extra") or {}
    return _User(
        str(name),
        str(user.get("uid") or ""),
        tuple(str(group) for group in user.get("groups") or ()),
        tuple((str(key), tuple(str(each) for each in values)) for key, values in extra.items()),
    )
