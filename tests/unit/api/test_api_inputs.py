"""The status of the inputs of the last tick."""

from __future__ import annotations

from ipa.model.observation import Measured, Missing, MissingReason, Observation, StageObservation
from ipa.model.plan import StageConfig
from ipa.service.live_state import InputLive, inputs_of


def test_each_input_has_its_age_or_why_it_was_not_seen() -> None:
    stale = Missing(MissingReason.STALE, "40 s old", 40.0)
    stage = StageObservation(
        "detect", Measured(StageConfig("detect", "v4", 1, 1.0, 2)), Measured(2), Measured(3.0, 2.5), stale
    )
    observation = Observation(
        "ocr", 100.0, Measured(3.0, 1.5), Missing(MissingReason.ABSENT, "no series"), Measured(0.2), (stage,)
    )
    assert inputs_of(observation) == (
        InputLive("load", missing=MissingReason.ABSENT, detail="no series"),
        InputLive("arrival_rate", age_s=1.5),
        InputLive("latency", age_s=0.0),
        InputLive("running", "detect", 0.0),
        InputLive("ready_replicas", "detect", 0.0),
        InputLive("arrival_rate", "detect", 2.5),
        InputLive("latency", "detect", 40.0, MissingReason.STALE, "40 s old"),
    )


def test_before_the_first_tick_there_is_none() -> None:
    assert inputs_of(None) == ()
