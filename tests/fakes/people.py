"""People who ask: their keys, their issuer's tokens, and a world with pipelines of two namespaces."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from ipa.adapters.identity.jwks import Jwks
from ipa.adapters.identity.oidc import OidcIdentities, issuer_of
from ipa.api.context import ApiContext
from ipa.control.saved_plans import Basis, StoredPlan
from ipa.targets.seldon.section import SeldonTarget
from tests.fakes.clock import VirtualClock
from tests.fakes.services import FakeWorld, a_pipeline, a_plan, over

ISSUER, AUDIENCE = "https://issuer.example", "ipa"
# Whose the second pipeline is; its name must not be found in answers to others.
OTHERS, HIDDEN = "vision", "hushhush"
ROLES = (
    "watch-here=viewer:default,act-here=owner:default,act-there=owner:vision,"
    "watch=viewer:*, act=owner:*, ops=operator"
)


@cache
def private_key(name: str = "issuer") -> rsa.RSAPrivateKey:
    """A signing key, the same for the same name."""
    assert name
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(name: str = "issuer") -> dict[str, Any]:
    """Its public half, as an issuer publishes it; its id is the name."""
    found = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private_key(name).public_key()))
    return {**found, "kid": name, "use": "sig", "alg": "RS256"}


def jwks_file(folder: Path, *names: str) -> Path:
    """A key set in a file."""
    path = folder / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk(name) for name in names or ("issuer",)]}))
    return path


def claims(*groups: str, **other: Any) -> dict[str, Any]:
    """The claims of a token that is good for five minutes; None takes one away."""
    now = int(time.time())
    found = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "iat": now,
        "exp": now + 300,
        "groups": list(groups),
    }
    return {name: value for name, value in {**found, **other}.items() if value is not None}


def token(*groups: str, key: str = "issuer", headers: Mapping[str, Any] | None = None, **other: Any) -> str:
    """A token of the issuer, signed with that key."""
    wanted = {"kid": key, **(headers or {})}
    return jwt.encode(claims(*groups, **other), private_key(key), algorithm="RS256", headers=wanted)


def unsigned(header: Mapping[str, Any], *groups: str, signature: bytes = b"", **other: Any) -> str:
    """A token of any header, with that for a signature."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    body = json.dumps(claims(*groups, **other)).encode()
    return ".".join((part(json.dumps(dict(header)).encode()), part(body), part(signature)))


def oidc(folder: Path, *names: str) -> OidcIdentities:
    """Trusts the tokens of the issuer, whose keys are in a file."""
    issuer = issuer_of(ISSUER, AUDIENCE, "sub", "groups", ROLES)
    return OidcIdentities(issuer, Jwks(str(jwks_file(folder, *names)), VirtualClock()))


@dataclass(frozen=True)
class TwoNamespaces:
    """A world with `ocr` in default and HIDDEN in OTHERS, both with decisions."""

    world: FakeWorld
    services: ApiContext
    # A decision of each.
    here: str
    there: str


def plan_of(pipeline: str) -> str:
    """The id of a plan of that pipeline."""
    return f"plan-{pipeline}"


def two_namespaces(ticks: int = 12) -> TwoNamespaces:
    """The world, some ticks old."""
    world = FakeWorld().play(ticks)
    other = replace(a_pipeline(), name=HIDDEN, targets={"seldon": SeldonTarget(HIDDEN, namespace=OTHERS)})
    here = world.log[-1]
    there = replace(here, decision_id="there-0001", pipeline=HIDDEN)
    world.record(there)
    services = over(world.services(), pipelines={"ocr": a_pipeline(), HIDDEN: other})
    for name in services.service.pipelines:
        basis = Basis(str(world.applied_tick), "", "")
        at = world.clock.now().isoformat()
        world.plans.keep(StoredPlan(plan_of(name), name, at, "{}", basis, a_plan(5.0)))
    return TwoNamespaces(world, services, here.decision_id, there.decision_id)
