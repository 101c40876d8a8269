"""The log of a loop: a line when a reason begins and one when it ends, with cause, remedy and decision."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest

from ipa.control.audit.reason_log import ReasonLog
from ipa.control.ports import Signals
from ipa.model.decision import Action
from ipa.model.observation import Missing, MissingReason
from ipa.model.plan import StageConfig
from ipa.serving.logs import JsonLines
from tests.fakes.world import made_loop, ours, scenario

DOWN = Missing(MissingReason.UNREACHABLE, "Prometheus at http://127.0.0.1:9090 did not answer")
FIELDS = {"pipeline", "decision_id", "reason", "cause", "address", "remedy", "by", "at", "ended", "lasted_s"}


def test_five_minutes_without_metrics_and_a_foreign_write_are_a_line_each_and_their_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = scenario(5.0)
    made = replace(made, hooks=(ReasonLog(),))
    made = replace(made, loop=made_loop(made, ours(), "logged"))
    made.run(120)
    with caplog.at_level(logging.INFO, "ipa.control"):
        made.metrics.fault = lambda _now_s, _signals: Signals(DOWN, DOWN, DOWN)
        made.run(300)
        made.metrics.fault = None
        made.run(60)
        made.workload.desired = made.workload.serving = tuple(
            StageConfig(each.stage, "big", 1, 1.0, 4) for each in made.workload.desired
        )
        made.run(60)
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    holds = [line for line in lines if line["reason"].startswith("hold.") or line["ended"]]
    assert all(set(line) >= FIELDS for line in lines)
    missing = [line for line in holds if line["reason"] == "hold.metrics_missing"]
    assert (
        len(missing) == 1 and missing[0]["level"] == "warning" and "#ipainputsstale" in missing[0]["remedy"]
    )
    assert missing[0]["address"] == "http://127.0.0.1:9090" and missing[0]["decision_id"]
    ended = [line for line in holds if line["ended"] == "hold.metrics_missing"]
    assert len(ended) == 1 and ended[0]["lasted_s"] >= 280
    assert len([line for line in holds if line["reason"] == "hold.drift"]) == 1
    # A tick that keeps a reason has no line.
    assert len(lines) <= len({decision.reason for decision in made.store.recorded}) + 2 * sum(
        decision.action is Action.APPLY for decision in made.store.recorded
    )
