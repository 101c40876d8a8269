"""The Metrics port in memory: the load is a function of the virtual clock."""

from __future__ import annotations

from collections.abc import Callable

from ipa.control.ports import Load, PartSignals, Signals, StageSignals
from ipa.model.observation import LoadHistory, Measured, Missing, MissingReason
from ipa.model.pipeline import Pipeline
from tests.fakes.clock import VirtualClock

_NOTHING = Missing(MissingReason.ABSENT, "no samples yet")
NO_SIGNALS = Signals(_NOTHING, _NOTHING, _NOTHING)
Fault = Callable[[float, Signals], Signals]


class FakeMetrics:
    """Answers one rate a second of what was offered since the clock began, like the real one.

    `fault` changes what would be answered at a time; before two seconds of load there is nothing to answer.
    """

    def __init__(
        self, clock: VirtualClock, rate_rps: Callable[[float], float], fault: Fault | None = None
    ) -> None:
        self.clock, self.rate_rps, self.fault = clock, rate_rps, fault
        self.latency_s = 0.1
        # By the part's name.
        self.parts: dict[str, PartSignals] = {}

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        now_s = self.clock.monotonic_s()
        seconds = range(int(max(now_s - window_s, -window_s)), int(now_s) + 1)
        rates = tuple(self.rate_rps(float(second)) for second in seconds)
        if not rates:
            return NO_SIGNALS
        rate = Measured(rates[-1])
        stage = StageSignals(rate, Measured(self.latency_s), Measured(0.0))
        signals = Signals(
            arrival_rate_rps=rate,
            load=Measured(LoadHistory(1.0, rates)),
            latency_s=Measured(self.latency_s),
            stages={stage_of.name: stage for stage_of in pipeline.stages},
            parts=self.parts,
        )
        return self.fault(now_s, signals) if self.fault else signals

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        return self.read(pipeline, window_s).load
