"""Identities by the signed tokens of an OIDC issuer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipa.adapters.identity.jwks import Jwks
from ipa.model import access
from ipa.model.errors import ConfigurationError, Problem

LOG = logging.getLogger(__name__)
# The tolerated difference between the issuer's clock and ours.
LEEWAY_S = 30.0
# Ten times the length of common tokens.
LONGEST_TOKEN = 16 * 1024


@dataclass(frozen=True, slots=True)
class Issuer:
    """The trusted issuer and its claims. `roles` maps a value of the roles claim to the role it grants."""

    issuer: str
    audience: str
    name_claim: str
    roles_claim: str
    roles: Mapping[str, access.Grant]


class OidcIdentities:
    """Authentication by tokens that the issuer signed for our audience and that have not expired."""

    def __init__(self, issuer: Issuer, keys: Jwks) -> None:
        self._issuer, self._keys = issuer, keys

    def takes(self, token: str) -> bool:
        """True if the token's unverified `iss` claim is the configured issuer."""
        import jwt

        if len(token) > LONGEST_TOKEN or token.count(".") != 2:
            return False
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError, RecursionError):
            return False
        return bool(claims.get("iss") == self._issuer.issuer)

    def identify(self, token: str, *, fresh: bool, within_s: float = 0.0) -> access.Identity | None:
        """Return the token's identity with the roles of its claims; None if the token is not valid.

        UnavailableError: the issuer's keys cannot be read.
        """
        claims = self._claims(token)
        if claims is None:
            return None
        name = claims.get(self._issuer.name_claim)
        fault = access.name_fault(name)
        if fault:
            LOG.info("refused: the claim %s %s", self._issuer.name_claim, fault)
            return None
        grants = tuple(self._issuer.roles[value] for value in self._values(claims))
        LOG.debug("%s is %s", name, ", ".join(map(str, grants)) or "no role")
        # No issuer's address contains a #.
        issuer = self._issuer.issuer
        return access.Holder(f"oidc:{issuer.partition('://')[2] or issuer}#{name}", grants)

    def _claims(self, token: str) -> Mapping[str, Any] | None:
        import jwt

        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            if key_id is not None and not isinstance(key_id, str):
                return None
            key = self._keys.key(key_id)
            if key is None:
                LOG.info("refused: no key of the issuer has the token's id")
                return None
            found: Mapping[str, Any] = jwt.decode(
                token,
                key,
                # The algorithm of the key, never that of the token.
                algorithms=[str(key.algorithm_name)],
                audience=self._issuer.audience,
                issuer=self._issuer.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # Log the error's type alone: its message may quote the token.
            LOG.info("refused: the token is not valid (%s)", type(error).__name__)
            return None
        return found

    def _values(self, claims: Mapping[str, Any]) -> Sequence[str]:
        """The known values of the roles claim, which is a list or a string of words."""
        found = claims.get(self._issuer.roles_claim, ())
        listed = found.split() if isinstance(found, str) else found
        if not isinstance(listed, list | tuple):
            return ()
        return [value for value in listed if isinstance(value, str) and value in self._issuer.roles]


def issuer_of(issuer: str, audience: str, name_claim: str, roles_claim: str, roles: str) -> Issuer:
    """Return the issuer of these settings; ConfigurationError lists every fault in them.

    `roles` has the form `platform=operator,vision=owner:vision,all=viewer:*`.
    """
    problems = [
        Problem(f"IPA_OIDC_{name} is needed")
        for name, value in (("ISSUER", issuer), ("AUDIENCE", audience), ("ROLES", roles))
        if not value.strip()
    ]
    granted: dict[str, access.Grant] = {}
    for entry in filter(None, (part.strip() for part in roles.split(","))):
        value, _, wanted = entry.rpartition("=")
        try:
            if not value:
                raise ValueError("no value of the claim")
            granted[value] = grant_of(wanted)
        except ValueError as error:
            problems.append(Problem(f"IPA_OIDC_ROLES: {entry!r}: {error}"))
    if problems:
        raise ConfigurationError(
            "tokens of an OIDC issuer cannot be checked with these settings", problems=problems
        )
    return Issuer(issuer, audience, name_claim, roles_claim, granted)


def grant_of(text: str) -> access.Grant:
    """Parse a grant: `operator`, `owner:vision` or `viewer:*`; ValueError for any other text."""
    word, _, namespace = text.partition(":")
    if word not in list(access.Role):
        raise ValueError(f"{word!r} is none of {', '.join(access.Role)}")
    role = access.Role(word)
    if role is not access.Role.OPERATOR and not namespace:
        raise ValueError(
            f"name its namespace, for example {word}:default, or {word}:{access.EVERYWHERE} for all"
        )
    return access.Grant(role, namespace or access.EVERYWHERE)
