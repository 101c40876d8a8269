"""A certificate is verified elsewhere, and one with a planted lie is refuted with the computed value."""

from __future__ import annotations

import json
import re
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest

from ipa.adapters.signing import Keyring
from ipa.bootstrap.keys import signature_verifier
from ipa.control.audit.replay import Replayer, verify_certificate
from ipa.control.canonical import canonical_json, digest
from ipa.control.engine.guards import GuardSettings
from ipa.files import load_pipeline, load_profiles
from ipa.files.targets import TARGETS
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.errors import InputError
from ipa.simulate.run import SimSetup, simulate
from tests.fakes.services import a_pipeline
from tests.fakes.viewed import PROFILES, decided

Values = dict[str, Any]


def certified(decision: Decision, *made_of: Any, keys: Path | None = None) -> Values:
    replayed = Replayer(sign=Keyring(keys, may_make=True).sign)(decision, *made_of, None, True)
    values: Values = json.loads(json.dumps(replayed.certificate))
    return values


@pytest.fixture
def values() -> Values:
    change = next(each for each in reversed(decided()) if each.action is Action.APPLY)
    return certified(change, a_pipeline(), PROFILES)


# Where, the value in its place (as JSON, or a factor, or none), and words of a fault or of the error.
LIES = """
plans/0                            gone           ^plans: there is none for .* rps within 0.9 s, which
plans/0/latency_s                  *0.8           ^plans.0: latency_s is .* by arithmetic, not
plans/0/stages/0/queue_delay_s     *0.5           ^plans.0: detect.queue_delay_s is .* by arithmetic, not
plans/0/objective                  *1.5           ^plans.0: objective is .* by arithmetic, not
plans/0/rate_rps                   *0.5           ^plans.0: the decision does not weigh it
decision/plan/latency_s            *0.5           ^decision.plan.latency_s is claimed as .*, its inputs give
decision/reason                    "hold.paused"  ^decision.reason is claimed as hold.paused, its inputs give
decision/at                        "2026"         ^decision.at is claimed as 2026, its inputs give
decision/inputs                    "{}"           ^decision.inputs: .* do not match their digest
pipeline/sla/latency               "2s"           ^decision: it does not follow .*: the pipeline has changed
profiles/detect/hardware           "faster"       ^decision: it does not follow .*: the profiles were measured
kind                               "SavedPlan"    no certificate .*: /kind: Input should be 'ipa.certificate
profiles                           {}             no certificate .*: /profiles has none of detect, rec
stages                             []             no certificate .*: /pipeline contradicts /bounds or
"""


def faults_of(values: Values) -> tuple[str, ...]:
    try:
        return verify_certificate(values, "it.json").faults
    except InputError as error:
        assert "--certificate" in str(error.hint)
        return (f"error: {error.message}",)


@pytest.mark.parametrize("lie", LIES.strip().splitlines())
def test_a_planted_lie_is_refuted_with_the_computed_value(values: Values, lie: str) -> None:
    assert faults_of(values) == ()
    path, value, words = lie.split(maxsplit=2)
    *keys, last = (int(name) if name.isdecimal() else name for name in path.split("/"))
    part: Any = reduce(getitem, keys, values)
    if value == "gone":
        del part[last]
    else:
        part[last] = part[last] * float(value[1:]) if value.startswith("*") else json.loads(value)
    assert any(re.search(words, fault) for fault in faults_of(values)), faults_of(values)


def test_other_profiles_are_refuted_also_with_their_digests(values: Values) -> None:
    for variant in values["profiles"]["detect"]["variants"]:
        variant["points"] = [{**each, "latency_s": 2 * each["latency_s"]} for each in variant["points"]]
    inputs = json.loads(values["decision"]["inputs"])
    inputs["made_of"]["profiles"] = digest(canonical_json(values["profiles"]))
    values["decision"] |= {"inputs": canonical_json(inputs), "inputs_digest": digest(canonical_json(inputs))}
    assert "plans.0: detect." in faults_of(values)[0]


def test_the_key_that_signed_it_is_told_from_others(tmp_path: Path) -> None:
    signed, other = (
        certified(decided()[-1], a_pipeline(), PROFILES, keys=tmp_path / name) for name in ("a", "b")
    )
    verifies = signature_verifier(tmp_path / "a")
    assert "--key FILE checks it" in verify_certificate(signed, "it.json").unchecked[-1]
    found = verify_certificate(signed, "it.json", verifies)
    assert found.faults == () and signed["key_id"] in found.verified[-1]
    for lie in (other, {**signed, "key_id": "", "signature": ""}, {**signed, "version": "0"}):
        faults = verify_certificate(lie, "it.json", verifies).faults
        assert len(faults) == 1 and re.search("signature: (there is none|.* no such key)", faults[0])


@pytest.mark.parametrize(("name", "target"), [("digits", "local"), ("digits", "seldon"), ("video", "seldon")])
def test_an_advisory_hold_on_a_target_is_verified(root: Path, name: str, target: str) -> None:
    profiles = load_profiles(root / "profiles", name)
    pipeline = load_pipeline(root / "pipelines" / name / "pipeline.yaml")
    pipeline = TARGETS.load(target).shape(pipeline, profiles)
    guards = GuardSettings(tick_s=5.0)
    setup = SimSetup(pipeline, profiles, (9.0,) * 20, mode=Mode.ADVISORY, guards=guards, keep_inputs=True)
    decision = next(it for it in simulate(setup).decisions if it.reason is ReasonCode.ADVISORY)
    found = verify_certificate(certified(decision, pipeline, profiles), "it.json")
    assert found.faults == () and "hold.advisory follows from its inputs" in found.verified[0]
