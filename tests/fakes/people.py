"""Callers: their tokens and roles, and a world with pipelines of two namespaces."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, replace

from ipa.api.context import ApiContext
from ipa.control.saved_plans import Basis, StoredPlan
from ipa.model.access import EVERYWHERE, Grant, Holder, Role, name_fault
from ipa.targets.seldon.section import SeldonTarget
from tests.fakes.services import FakeWorld, a_pipeline, a_plan, over

# The namespace of the second pipeline, whose name must not be found in answers to others.
OTHERS, HIDDEN = "vision", "hushhush"
GRANTS = {
    "watch-here": Grant(Role.VIEWER, "default"),
    "act-here": Grant(Role.OWNER, "default"),
    "act-there": Grant(Role.OWNER, OTHERS),
    "watch": Grant(Role.VIEWER, EVERYWHERE),
    "act": Grant(Role.OWNER, EVERYWHERE),
    "ops": Grant(Role.OPERATOR),
}
START = "people."


def token(*groups: str, sub: str = "ada", **other: str) -> str:
    """A token that `People` accepts: its caller's name and groups, and claims that mean nothing."""
    claims = json.dumps({"sub": sub, "groups": groups, **other}).encode()
    return START + base64.urlsafe_b64encode(claims).rstrip(b"=").decode()


class People:
    """Authentication by the tokens of `token`; its groups are names of GRANTS."""

    def takes(self, token: str) -> bool:
        """True if it has the form of a token of `token`."""
        return token.startswith(START)

    def identify(self, token: str, *, fresh: bool, within_s: float = 0.0) -> Holder | None:
        """Return the caller with the grants of its groups; None if the token is not one of `token`."""
        try:
            claims = json.loads(base64.urlsafe_b64decode(token.removeprefix(START) + "=="))
        except (binascii.Error, ValueError):
            return None
        if name_fault(claims["sub"]):
            return None
        grants = tuple(GRANTS[group] for group in claims["groups"] if group in GRANTS)
        return Holder(f"kubernetes:{claims['sub']}", grants)


class Nobody:
    """Wants to know who asks, and knows nobody."""

    def takes(self, token: str) -> bool:
        return True

    def identify(self, token: str, *, fresh: bool) -> None:
        return None


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
    here = world.recorded[-1]
    there = replace(here, decision_id="there-0001", pipeline=HIDDEN)
    world.record(there)
    services = over(world.services(), pipelines={"ocr": a_pipeline(), HIDDEN: other})
    for name in services.service.pipelines:
        basis = Basis(str(world.applied_tick), "", "")
        at = world.clock.now().isoformat()
        world.plans.keep(StoredPlan(plan_of(name), name, at, "{}", basis, a_plan(5.0)))
    return TwoNamespaces(world, services, here.decision_id, there.decision_id)
