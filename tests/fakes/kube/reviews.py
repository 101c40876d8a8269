"""TokenReview and SubjectAccessReview, answered as a kube-apiserver with RBAC answers them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.fakes.kube.store import ApiError, Json

# What the API server's own tokens are made for.
AUDIENCE = "https://kubernetes.default.svc"
KINDS = {"tokenreviews": "TokenReview", "subjectaccessreviews": "SubjectAccessReview"}


@dataclass(frozen=True)
class User:
    """Someone as the cluster knows them. `audiences` are what their token was made for."""

    username: str
    groups: tuple[str, ...] = ("system:authenticated",)
    uid: str = "uid-1"
    audiences: tuple[str, ...] = (AUDIENCE,)
    extra: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Reviewer:
    """Whose the tokens are, and who may what."""

    tokens: dict[str, User] = field(default_factory=dict)
    # (user or group, verb, resource, namespace, name). The namespace "" is that of a ClusterRoleBinding:
    # every one; the name "" is that of a rule without resourceNames.
    rights: set[tuple[str, str, str, str, str]] = field(default_factory=set)
    # An authenticator that knows no audiences says none.
    knows_audiences: bool = True

    def let(
        self, who: str, namespace: str, *verbs: str, resource: str = "seldondeployments", name: str = ""
    ) -> None:
        """Bind a role with those verbs, perhaps on one object alone, to a user or group."""
        self.rights |= {(who, verb, resource, namespace, name) for verb in verbs}

    def answer(self, resource: str, body: Any) -> Json:
        """The review with its status. ApiError where the server would refuse it."""
        kind = KINDS[resource]
        if not isinstance(body, dict) or body.get("kind", kind) != kind:
            raise ApiError(400, "BadRequest", f"the object provided is unrecognized: want {kind}")
        status = self._token(body["spec"]) if kind == "TokenReview" else self._access(body["spec"])
        return {**body, "metadata": {"creationTimestamp": None}, "status": status}

    def _token(self, spec: Json) -> Json:
        token = spec.get("token")
        if not token:
            raise ApiError(400, "BadRequest", "token is required for TokenReview in authentication")
        user = self.tokens.get(token)
        wanted = set(spec.get("audiences") or (AUDIENCE,))
        # `authenticated` is left away where it is false.
        if user is None:
            return {"user": {}, "error": "[invalid bearer token, token lookup failed]"}
        if self.knows_audiences and not wanted & set(user.audiences):
            return {"user": {}, "error": "[invalid bearer token, token audiences do not match]"}
        values = {"username": user.username, "uid": user.uid, "groups": list(user.groups)}
        status: Json = {"authenticated": True, "user": values | ({"extra": user.extra} if user.extra else {})}
        if self.knows_audiences:
            status["audiences"] = sorted(wanted & set(user.audiences))
        return status

    def _access(self, spec: Json) -> Json:
        wanted = spec.get("resourceAttributes")
        if (wanted is None) == (spec.get("nonResourceAttributes") is None):
            raise ApiError(
                422, "Invalid", "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            )
        if not spec.get("user") and not spec.get("groups"):
            raise ApiError(422, "Invalid", "at least one of user or group must be specified")
        action = wanted["verb"], wanted["resource"]
        # One who asks of no namespace asks of all: a right in one is not enough.
        places = {wanted.get("namespace", ""), ""}
        names = {wanted.get("name", ""), ""}
        for who in (spec.get("user"), *(spec.get("groups") or ())):
            if any((who, *action, place, name) in self.rights for place in places for name in names):
                return {"allowed": True, "reason": f'RBAC: allowed by RoleBinding to "{who}"'}
        return {"allowed": False}
