"""State of a pipeline's metrics between ticks: ages, incidents, and forecasts that wait for their score."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ipa.control.engine.quarantine import FailedRollout
from ipa.control.engine.write_outcome import is_outcome
from ipa.control.loop.snapshot import Snapshot
from ipa.metering.labels import Incident, Input
from ipa.model.decision import Action, Decision, ReasonCode
from ipa.model.observation import LoadHistory, Measured, Missing, MissingReason, Observation

# Forecasts whose horizon is not over: an hour's horizon at ticks of ten seconds.
MOST_WAITING = 360
# Below this peak an error ratio says nothing.
LEAST_RPS = 0.1

# The incident that the outcome of a write reports.
OF_OUTCOME = {
    ReasonCode.CONFLICT: Incident.CONFLICT,
    ReasonCode.RBAC: Incident.REFUSED,
    ReasonCode.WORKLOAD_UNKNOWN: Incident.UNANSWERED,
}


class Ages:
    """The age of each input."""

    def __init__(self) -> None:
        self._true_at_s: dict[Input, float] = {}

    def of(self, observation: Observation) -> dict[Input, float | None]:
        """Return the ages at the observation's time, in seconds; None for an input never observed."""
        stages = observation.stages
        rates = [stage.arrival_rate_rps for stage in stages]
        running = [stage.running for stage in stages]
        return {
            Input.LOAD: self._age_s(Input.LOAD, observation.load, observation.at_s),
            Input.LATENCY: self._age_s(Input.LATENCY, observation.latency_s, observation.at_s),
            Input.STAGES: self._age_s(Input.STAGES, _oldest(rates), observation.at_s),
            Input.WORKLOAD: self._age_s(Input.WORKLOAD, _oldest(running), observation.at_s),
        }

    def _age_s(self, name: Input, value: Measured[Any] | Missing, at_s: float) -> float | None:
        if isinstance(value, Measured):
            self._true_at_s[name] = at_s - value.age_s
        elif value.reason is MissingReason.STALE and value.age_s is not None:
            # Too old to act upon, but its age is known.
            self._true_at_s[name] = at_s - value.age_s
        true_at_s = self._true_at_s.get(name)
        return None if true_at_s is None else at_s - true_at_s


def _oldest(values: Sequence[Measured[Any] | Missing]) -> Measured[Any] | Missing:
    """The first missing value, else the oldest; Missing without values."""
    missing = next((value for value in values if isinstance(value, Missing)), None)
    seen = [value for value in values if isinstance(value, Measured)]
    if missing is not None or not seen:
        return missing or Missing(MissingReason.ABSENT)
    return max(seen, key=lambda value: value.age_s)


@dataclass(slots=True)
class Incidents:
    """The detection of incidents, from each decision and the ones before it."""

    _last: Decision | None = None
    _failures: frozenset[FailedRollout] | None = None

    def of(self, decision: Decision, snapshot: Snapshot) -> list[Incident]:
        """Return the incidents that begin with this decision. A standby has none."""
        if decision.reason is ReasonCode.NOT_LEADER and not is_outcome(decision):
            self._last, self._failures = None, None
            return []
        found = list(self._said(decision))
        failures = frozenset(snapshot.quarantines)
        if self._failures is not None and failures - self._failures:
            found.append(Incident.QUARANTINE)
        self._last, self._failures = decision, failures
        return found

    def _said(self, decision: Decision) -> Iterator[Incident]:
        before, reason = self._last, decision.reason
        begins = before is None or before.reason is not reason
        if is_outcome(decision):
            if reason in OF_OUTCOME:
                yield OF_OUTCOME[reason]
        elif reason is ReasonCode.ROLLBACK and decision.action is Action.APPLY:
            yield Incident.ROLLBACK
        elif reason is ReasonCode.ROLLBACK_FAILED and begins:
            yield Incident.ROLLBACK_FAILED
        elif reason is ReasonCode.DRIFT and (begins or (before and decision.previous != before.previous)):
            yield Incident.DRIFT


@dataclass(frozen=True, slots=True)
class Score:
    """The error of a forecast: peak / forecast - 1, and True if the peak exceeded the upper quantile."""

    error_ratio: float
    is_exceeded: bool


@dataclass(slots=True)
class Scores:
    """The forecasts whose horizon is not over, and their scores."""

    _waiting: deque[tuple[float, float, float, float, float]] = field(
        default_factory=lambda: deque(maxlen=MOST_WAITING)
    )

    def of(self, decision: Decision, observation: Observation) -> list[Score]:
        """Return the scores of the forecasts whose horizon ends now; none for an unobserved horizon."""
        now_s, scores = observation.at_s, []
        while self._waiting and sum(self._waiting[0][:2]) <= now_s:
            at_s, horizon_s, point_rps, upper_rps, peak_s = self._waiting.popleft()
            peak_rps = _peak_rps(observation.load, now_s - at_s, horizon_s, peak_s)
            if peak_rps is not None and max(peak_rps, point_rps) >= LEAST_RPS:
                error_ratio = peak_rps / max(point_rps, LEAST_RPS) - 1.0
                scores.append(Score(error_ratio, peak_rps > upper_rps))
        forecast = decision.forecast
        if forecast is not None and forecast.horizon_s > 0:
            point = (forecast.point_rps, forecast.upper_rps, forecast.peak_s)
            self._waiting.append((now_s, forecast.horizon_s, *point))
        return scores


def _peak_rps(
    load: Measured[LoadHistory] | Missing, ago_s: float, horizon_s: float, peak_s: float
) -> float | None:
    """The highest mean over `peak_s` in the `horizon_s` that began `ago_s` ago; None if part is missing."""
    if isinstance(load, Missing):
        return None
    history, step_s = load.value, load.value.step_s
    first = len(history.rates_rps) - round((ago_s - load.age_s) / step_s)
    last = first + round(horizon_s / step_s)
    rates = history.rates_rps[max(first, 0) : last]
    if first < 0 or last > len(history.rates_rps) or any(rate is None for rate in rates) or not rates:
        return None
    # Rates that are means over that long already are not averaged again.
    width = 1 if history.averaged_s >= peak_s else min(max(round(peak_s / step_s), 1), len(rates))
    sums = [0.0]
    for rate in rates:
        sums.append(sums[-1] + (rate or 0.0))
    return max((end - start) / width for start, end in zip(sums, sums[width:], strict=False))
