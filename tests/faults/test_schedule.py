"""Fault schedules: what is wrong in a file is said, and what is right happens."""

from __future__ import annotations

import pytest

from ipa.model.decision import ReasonCode
from tests.faults.drive import drive
from tests.faults.schedule import FOLDER, load, parse
from tests.faults.world import build


def test_everything_that_is_wrong_is_said_at_once() -> None:
    document = {
        "what": 3,
        "whta": "typo",
        "faults": [
            {"time_s": -1, "target": "kube", "effect": "status", "times": 1, "for_s": 3},
            {"time_s": "soon", "target": "kube", "effect": "vanish"},
            {"target": "moon", "effect": "rise"},
            {"time_s": 1, "target": "hand", "effect": "scale", "stage": "read", "every_s": 5},
            "text",
            {"time_s": 1, "target": "prometheus", "effect": "nan", "nonsense": 1},
        ],
    }
    with pytest.raises(ValueError) as caught:
        parse(document, "bad.yaml")
    said = str(caught.value).splitlines()
    assert all(line.startswith("bad.yaml: ") for line in said)
    wanted = (
        "unknown key 'whta'",
        "`what` must say",
        "faults[0]: effect status needs status",
        "faults[0]: give either times or for_s",
        "faults[0]: time_s must be above 0",
        "faults[1]: time_s must be float, not 'soon'",
        "faults[1]: kube has no effect 'vanish'",
        "faults[2]: time_s is missing",
        "faults[2]: target 'moon'",
        "faults[3]: effect scale needs replicas",
        "faults[3]: every_s and until_s go together",
        "faults[4]: must be a mapping",
        "faults[5]: unknown key 'nonsense'",
        "faults[5]: give for_s",
    )
    missing = [words for words in wanted if words not in str(caught.value)]
    assert missing == []
    assert len(said) == len(wanted)


def test_every_file_loads() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    assert names
    assert all(load(name).end_s > 0 for name in names)


def test_faults_happen_at_their_time_and_end() -> None:
    document = {
        "what": "ten seconds in the dark, later without metrics",
        "faults": [
            {"time_s": 12, "target": "kube", "effect": "status", "status": 500, "for_s": 10},
            {"time_s": 42, "target": "prometheus", "effect": "unreachable", "for_s": 10},
            {"time_s": 62, "target": "people", "effect": "pause", "for_s": 10},
        ],
    }
    with build(rate_rps=1.0) as world:
        world.settle()
        drive(world, parse(document))
        reasons = [decision.reason for decision in world.ticks(16)]
    assert {at for at, one in enumerate(reasons) if one is ReasonCode.WORKLOAD_UNKNOWN} == {3, 4}
    assert {at for at, one in enumerate(reasons) if one is ReasonCode.METRICS_MISSING} == {9, 10}
    assert {at for at, one in enumerate(reasons) if one is ReasonCode.PAUSED} == {13, 14}
