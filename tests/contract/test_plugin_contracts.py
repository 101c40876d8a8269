"""Every plug-in, also of another installed package, keeps the contract of its kind."""

from __future__ import annotations

from typing import Any

import pytest

from ipa.forecast.registry import FORECASTERS
from ipa.model.errors import UsageError
from ipa.model.pipeline import Pipeline
from ipa.policies.base import is_stateful
from ipa.policies.registry import POLICIES
from ipa.policies.table import PolicyInputs, make_policy
from ipa.simulate.registry import WORLDS
from ipa.simulate.run import SimSetup, in_world, simulate
from tests.fakes.policy_contract import ONE_STAGE, PIPELINE, PROFILES, PolicyContract

PUBLISHED = ("experiments.infaas:infaas", "experiments.compass:compass")


def promises(contract: type) -> list[str]:
    """The names of the contract's tests."""
    return [name for name in dir(contract) if name.startswith("test_")]


@pytest.mark.parametrize("promise", promises(PolicyContract))
@pytest.mark.parametrize("name", [*POLICIES, *map(POLICIES.admit, PUBLISHED)])
def test_policy(name: str, promise: str) -> None:
    getattr(PolicyContract(name), promise)()


@pytest.mark.parametrize("name", list(WORLDS))
def test_world(name: str) -> None:
    """The same setup gives the same one, the given one stays as it is, and the loop runs in it."""
    given = SimSetup(PIPELINE, PROFILES, (4.0,) * 90, seed=7, world=name)
    before = repr(given)
    changed = in_world(given)
    assert changed == in_world(given) and repr(given) == before
    assert in_world(changed) == changed, "the world is in it"
    assert simulate(given).summary() == simulate(changed).summary()


@pytest.mark.parametrize("registry", [POLICIES, FORECASTERS, WORLDS], ids=lambda each: each.kind)
def test_every_built_in_one_is_there(registry: Any) -> None:
    assert all(callable(registry.load(name)) for name in registry.built_in)


def test_those_that_remember_are_known() -> None:
    stateful = [name for name in POLICIES.built_in if is_stateful(PolicyContract(name).make(ONE_STAGE))]
    assert stateful == ["vpa+", "hpa", "kpa"]


@pytest.mark.parametrize(
    ("name", "pipeline", "words"),
    [
        ("infadapter", PIPELINE, "one stage"),
        ("ms+", PIPELINE, "one stage"),
        ("nobody", PIPELINE, "There are: ours"),
    ],
)
def test_what_cannot_be_made_says_why(name: str, pipeline: Pipeline, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_policy(name, PolicyInputs(pipeline, PROFILES, solver="exact"))
    problems = " ".join(problem.message for problem in caught.value.problems)
    assert words in f"{caught.value} {caught.value.hint} {problems}"
